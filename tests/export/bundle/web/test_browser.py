"""The page in a real Chromium, headless: it draws the golden images, edits, plays, and explains what goes wrong.

Playwright drives the Chromium that is installed; nothing is fetched.
"""

from __future__ import annotations

import functools
import io
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from dcp_deploy.checkpoints.directions import read_directions
from dcp_deploy.export import Runner, latents_of, load_runner, verify
from dcp_deploy.export.bundle.golden import read_golden_images
from dcp_deploy.export.runners.runner import classes_of
from dcp_deploy.export.runners.sampling import as_uint8
from dcp_deploy.export.serving.pages import running_page
from dcp_deploy.generators import Generator

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NAMES = ("chromium", "chromium-browser", "google-chrome")
# WebGPU on the processor, by the SwiftShader that Chromium brings; --no-sandbox: containers run as root.
FLAGS = ("--no-sandbox", "--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan")
PATIENCE = 240_000  # milliseconds, on a busy machine
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip("Chromium is not installed (Debian: apt-get install chromium)")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address(web_page: Path) -> Iterator[str]:
    with running_page(web_page, host="127.0.0.1", port=0) as address:
        yield address


@contextmanager
def plain_host(folder: Path) -> Iterator[str]:
    """Serve a folder as a host does that sends no headers of its own."""

    class Plain(SimpleHTTPRequestHandler):
        extensions_map = {**SimpleHTTPRequestHandler.extensions_map, ".mjs": "text/javascript"}  # noqa: RUF012

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Plain, directory=str(folder)))
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()


Open = Callable[..., "Page"]


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Open]:
    """A function that opens an address in a new visitor's browser; keywords as of ``new_context``."""
    contexts = []

    def opened(address: str, *, script: str = "", **options: Any) -> Page:
        context = browser.new_context(**options)
        contexts.append(context)
        context.set_default_timeout(PATIENCE)
        if script:
            context.add_init_script(script)
        page = context.new_page()
        page.goto(address)
        return page

    yield opened
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def ready(browser: Browser, address: str) -> Iterator[Page]:
    """The page, ready, of a server with all headers; tests leave seed 0 at psi 1, unedited, on WebAssembly."""
    context = browser.new_context()
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.goto(address)
    wait_until_ready(page)
    yield page
    context.close()


def wait_until_ready(page: Page) -> None:
    says(page, "#status", "Ready.")
    says(page, "#caption", re.compile("Seed"))


def says(page: Page, place: str, words: str | re.Pattern[str]) -> None:
    """Wait for a text. The page's policy forbids Playwright's ``wait_for_function``, which evaluates strings."""
    from playwright.sync_api import expect

    expect(page.locator(place)).to_have_text(words, timeout=PATIENCE)


def set_value(page: Page, label: str, value: float) -> None:
    """Set a slider or a number as a visitor does."""
    page.get_by_label(label, exact=True).evaluate(
        "(input, value) => { input.value = value; input.dispatchEvent(new Event('input', {bubbles: true})); }", value
    )


def shown(page: Page, words: str) -> NDArray[np.uint8]:
    """Wait for the image with this caption, download it, and return its pixels [H, W, 3]."""
    says(page, "#caption", words)
    with page.expect_download() as download:
        page.get_by_role("button", name="Download PNG").click()
    name = words.lower().replace(", ", "-").replace(" ", "")
    assert download.value.suggested_filename == f"{name}.png"
    return np.asarray(Image.open(io.BytesIO(download.value.path().read_bytes())).convert("RGB"))


def drawn_in(page: Page, folder: Path) -> Runner:
    """The page as a Runner of the golden seeds: by the form, and from downloaded files."""
    golden, compared = read_golden_images(folder / "golden" / "generator")
    kept = {}
    for psi in compared["psis"]:
        set_value(page, "Truncation psi", psi)
        for seed in range(compared["latents"]):
            set_value(page, "Seed", seed)
            image = shown(page, f"Seed {seed}, class {seed % golden.c_dim}, psi {psi:g}")
            kept[latents_of([seed], golden.z_dim)[0].tobytes(), np.float32(psi)] = image
    set_value(page, "Seed", 0)

    def draw(z: NDArray[Any], psi: NDArray[Any], c: NDArray[Any] | None) -> NDArray[Any]:
        return np.stack([kept[row.tobytes(), value] for row, value in zip(z, psi, strict=True)])

    return Runner("page", "chromium", golden.z_dim, golden.c_dim, golden.image_size, "uint8", draw)


def check_golden(page: Page, folder: Path) -> None:
    """Compare what the page shows with the golden images by the gate, then let the page compare them itself."""
    golden, compared = read_golden_images(folder / "golden" / "generator")
    report = verify(golden, drawn_in(page, folder), **compared)
    report.raise_for_failure()
    check_by_page(page)


def check_by_page(page: Page) -> None:
    """Let the page compare its images with the golden ones."""
    page.get_by_role("button", name="Check this browser's images").click()
    says(page, "#verdict", re.compile("Compared: 8"))
    assert page.locator("#verdict").get_attribute("class") == "note good"
    print(f"{page.locator('#backend').inner_text()}: {page.locator('#verdict').inner_text()}")


def play(page: Page) -> str:
    """Play for a moment; return the frames per second that the page shows."""
    page.get_by_role("button", name="Play").click()
    says(page, "#speed", re.compile(r"\d"))
    page.wait_for_timeout(500)
    page.get_by_role("button", name="Stop").click()
    return page.locator("#speed").inner_text()


def test_the_page_draws_the_golden_images_with_threads(ready: Page, web_page: Path) -> None:
    threads = ready.evaluate("navigator.hardwareConcurrency")
    assert ready.evaluate("crossOriginIsolated")
    assert ready.locator("#backend").inner_text() == f"WebAssembly, {threads} threads" or threads != 2
    check_golden(ready, web_page)


@pytest.mark.slow
def test_webgpu_draws_the_golden_images(ready: Page) -> None:
    if not ready.evaluate("navigator.gpu?.requestAdapter().then((adapter) => Boolean(adapter))"):
        pytest.skip("this Chromium has no WebGPU adapter")
    ready.get_by_label("Runs on").select_option("webgpu")
    says(ready, "#backend", re.compile("Web"))
    assert ready.locator("#backend").inner_text() == "WebGPU", ready.locator("#problem").inner_text()
    check_by_page(ready)
    ready.get_by_label("Runs on").select_option("wasm")
    says(ready, "#backend", re.compile("WebAssembly"))


def test_playing_shows_frames_per_second(ready: Page) -> None:
    speed = play(ready)
    took, where = ready.locator("#time").inner_text(), ready.locator("#backend").inner_text()
    print(f"{speed} frames per second, {took} per image, {where}")
    assert re.fullmatch(r"\d+(\.\d)?", speed)
    assert re.fullmatch(r"\d+(\.\d)? ms", ready.locator("#time").inner_text())
    set_value(ready, "Truncation psi", 1)
    set_value(ready, "Seed", 0)


def test_the_backend_can_be_changed_while_playing(ready: Page) -> None:
    ready.get_by_role("button", name="Play").click()
    says(ready, "#caption", re.compile("Between seeds"))
    ready.get_by_label("Runs on").select_option("wasm")
    says(ready, "#backend", re.compile("WebAssembly"))
    set_value(ready, "Seed", 0)
    shown(ready, "Seed 0, class 0, psi 1")


def test_an_image_that_the_old_backend_did_not_finish_is_drawn_by_the_new_one(ready: Page) -> None:
    ready.evaluate("""() => {
        const change = (id, value, kind) => {
            const input = document.getElementById(id);
            input.value = value;
            input.dispatchEvent(new Event(kind, {bubbles: true}));
        };
        change("seed", "5", "input");
        change("where", "wasm", "change");
    }""")
    says(ready, "#backend", re.compile("WebAssembly"))
    shown(ready, "Seed 5, class 2, psi 1")
    assert ready.locator("#problem").is_hidden()
    set_value(ready, "Seed", 0)


def test_a_direction_moves_the_image_as_in_the_network(ready: Page, web_page: Path, conditional: Generator) -> None:
    direction = read_directions(web_page / "directions" / "directions.safetensors")["pc1"]
    set_value(ready, "Truncation psi", 1)
    set_value(ready, "pc1", -2)
    image = shown(ready, "Seed 0, class 0, psi 1, pc1 = -2")
    ready.get_by_role("button", name="Set all to 0").click()
    plain = shown(ready, "Seed 0, class 0, psi 1")
    with torch.inference_mode():
        label = torch.from_numpy(classes_of([0], conditional.config.c_dim))
        ws = conditional.mapping(torch.from_numpy(latents_of([0], conditional.config.z_dim)), label)
        wanted = as_uint8(conditional.synthesis(direction.move(ws, -2.0)).numpy())[0]
    steps = np.abs(image.astype(int) - wanted)
    assert steps.max() <= 1 and (steps > 0).mean() < 0.005
    assert np.abs(plain.astype(int) - wanted).max() > 8, "the direction changes nothing, so nothing was compared"


def test_a_class_can_be_chosen(ready: Page, conditional: Generator) -> None:
    ready.get_by_label("Class", exact=True).select_option("1")
    image = shown(ready, "Seed 0, class 1, psi 1")
    ready.get_by_label("Class", exact=True).select_option("")
    size = conditional.config
    wanted = as_uint8(load_runner(conditional)(latents_of([0], size.z_dim), 1.0, classes_of([1], size.c_dim)))[0]
    assert np.abs(image.astype(int) - wanted).max() <= 1


def test_a_link_shows_the_same_image(ready: Page, conditional: Generator, open_page: Open) -> None:
    set_value(ready, "Seed", 4294967295)
    set_value(ready, "pc0", 1.5)
    words = f"Seed 4294967295, class {4294967295 % conditional.config.c_dim}, psi 1, pc0 = 1.5"
    image, link = shown(ready, words), ready.url
    ready.get_by_role("button", name="Set all to 0").click()
    ready.get_by_role("button", name="Next seed").click()  # the first one again
    shown(ready, "Seed 0, class 0, psi 1")
    other = open_page(link)
    wait_until_ready(other)
    assert np.array_equal(shown(other, words), image)


def test_what_a_link_says_wrongly_is_left_out(address: str, open_page: Open) -> None:
    page = open_page(f"{address}#seed=-3&psi=x&class=99&move.pc0=1e9&move.nothing=1")
    wait_until_ready(page)
    fields = {"Seed": "0", "Truncation psi": "1", "Class": "", "pc0": "3"}  # 3 is the slider's end
    assert {name: page.get_by_label(name, exact=True).input_value() for name in fields} == fields


@pytest.mark.parametrize("seed", ["", "-1", "4294967296", "1.5"])
def test_a_wrong_seed_is_a_sentence_and_not_drawn(ready: Page, seed: str) -> None:
    ready.get_by_label("Seed", exact=True).fill(seed)
    ready.get_by_text("A seed is a whole number from 0 to 4294967295.").wait_for()
    ready.get_by_label("Seed", exact=True).fill("0")
    shown(ready, "Seed 0, class 0, psi 1")


def test_the_page_asks_only_its_own_server(address: str, open_page: Open, browser: Browser) -> None:
    asked: list[str] = []
    context = browser.new_context()
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    context.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    wait_until_ready(page)
    refused = page.evaluate("fetch('http://127.0.0.1:9/').then(() => 'sent', () => 'refused')")
    violated = page.evaluate(
        "new Promise((done) => { addEventListener('securitypolicyviolation', (e) => done(e.violatedDirective));"
        " fetch('https://example.org/').catch(() => {}); })"
    )
    context.close()
    assert (refused, violated) == ("refused", "connect-src")
    assert asked and all(url.startswith((address, "http://127.0.0.1:9/", "https://example.org/")) for url in asked)
    assert any(url.endswith("ort-wasm-simd-threaded.wasm") for url in asked)
    assert not any("asyncify" in url for url in asked), "a visitor loads one of the two builds"


def test_a_host_without_headers_gets_threads_by_the_service_worker(web_page: Path, open_page: Open) -> None:
    with plain_host(web_page) as address:
        page = open_page(address)
        says(page, "#backend", re.compile("threads?$"))
        wait_until_ready(page)
        assert page.evaluate("crossOriginIsolated")
        assert "thread" in page.locator("#backend").inner_text()
        assert page.locator("#threads").inner_text() == ""


def test_a_page_that_is_not_isolated_says_so_and_uses_one_thread(web_page: Path, open_page: Open) -> None:
    with plain_host(web_page) as address:
        page = open_page(address, service_workers="block")
        wait_until_ready(page)
        assert page.locator("#backend").inner_text() == "WebAssembly, 1 thread"
        assert "not cross-origin isolated" in page.locator("#threads").inner_text()


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        ("manifest.json", "The file manifest.json of this page cannot be loaded: the folder is not complete."),
        ("model.onnx", "model.onnx is missing on the server (status 404)."),
        ("runtime/ort.wasm.min.mjs", "ort.wasm.min.mjs"),
        ("runtime/ort-wasm-simd-threaded.wasm", "wasm"),
        ("generator.js", "generator.js of this page could not be loaded"),
    ],
)
def test_a_lost_file_is_a_sentence(own_page: Path, open_page: Open, lost: str, said: str) -> None:
    (own_page / lost).unlink()
    with plain_host(own_page) as address:
        page = open_page(address, service_workers="block")
        problem = page.get_by_role("alert").first
        problem.wait_for()
        words = problem.inner_text()
    assert words.startswith("The network cannot be run. ") and said in words and words.endswith("."), words
    assert page.locator("#status").inner_text() == "Stopped."


def test_without_webassembly_the_page_says_so(address: str, open_page: Open) -> None:
    page = open_page(address, script="delete globalThis.WebAssembly")
    page.get_by_text("This browser has no WebAssembly, or it is switched off.").wait_for()


def test_webgpu_that_does_not_work_is_replaced(own_page: Path, open_page: Open) -> None:
    (own_page / "runtime" / "ort.webgpu.min.mjs").unlink()
    with plain_host(own_page) as address:
        page = open_page(address, service_workers="block")
        wait_until_ready(page)
        page.get_by_label("Runs on").select_option("webgpu")
        says(page, "#problem", re.compile("WebGPU does not work here, so WebAssembly is used"))
        says(page, "#backend", re.compile("WebAssembly"))
        assert page.get_by_label("Runs on").input_value() == "wasm"  # so WebGPU can be chosen again


def test_opened_as_a_file_it_names_the_command(web_page: Path, open_page: Open) -> None:
    page = open_page((web_page / "index.html").as_uri())
    page.get_by_text("dcp-deploy serve FOLDER").wait_for(state="visible")


@pytest.mark.parametrize("width", [320, 390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_phones_and_desks(ready: Page, width: int, scheme: Literal["light", "dark"]) -> None:
    ready.set_viewport_size({"width": width, "height": 844})
    ready.emulate_media(color_scheme=scheme)
    assert ready.evaluate("document.documentElement.scrollWidth") <= width
    small = ready.evaluate(
        "[...document.querySelectorAll('button, select, input')].filter((one) => one.checkVisibility())"
        ".filter((one) => { const box = one.getBoundingClientRect(); return box.height < 24 || box.width < 24 })"
        ".map((one) => one.id)"
    )
    assert small == [], "too small to touch"
    unnamed = ready.evaluate(
        "[...document.querySelectorAll('select, input')].filter((one) => !one.labels.length).map((one) => one.id)"
    )
    assert unnamed == []
