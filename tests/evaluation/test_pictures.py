"""What ``sample`` draws: the codes behind the pictures, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageSequence
from safetensors.torch import save_file

from dcp_deploy.checkpoints import save_generator
from dcp_deploy.checkpoints.directions import Direction, save_directions
from dcp_deploy.errors import DcpDeployError, InputError, UsageError
from dcp_deploy.evaluation import labels, pictures
from dcp_deploy.evaluation.pictures import Mix, SampleConfig, between, sample_file
from dcp_deploy.export import export_onnx, latents_of
from dcp_deploy.export.runners.sampling import as_uint8
from dcp_deploy.generators import Generator, GeneratorConfig
from dcp_deploy.progress import Reporter

SIDE = 16


def network(c_dim: int) -> Generator:
    """A 16 px generator with colours within range; 6 slots, w_dim 8."""
    config = GeneratorConfig(SIDE, (8,) * 6, z_dim=8, w_dim=8, c_dim=c_dim, mapping_layers=2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        generator = Generator(config).eval().requires_grad_(False)
        generator.mapping.w_avg.normal_()
        for _, torgb in generator.synthesis.torgbs():
            torgb.weight.mul_(0.3)
    return generator


@pytest.fixture(autouse=True)
def small_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let words fit the images, so that these lie side by side; what larger words do is tested in test_labels.py."""
    monkeypatch.setattr(labels, "_size", lambda text, font: (12, 12) if text else (0, 0))


@pytest.fixture(scope="module")
def plain() -> Generator:
    return network(0)


@pytest.fixture(scope="module")
def classed() -> Generator:
    return network(3)


@pytest.fixture(scope="module")
def files(plain: Generator, classed: Generator, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both checkpoints, an export that takes z and one that takes ws, codes and a direction."""
    folder = tmp_path_factory.mktemp("files")
    save_generator(plain, folder / "plain.safetensors")
    save_generator(classed, folder / "classed.safetensors")
    export_onnx(plain, folder / "z.onnx")
    export_onnx(plain, folder / "ws.onnx", inputs="ws")
    save_file({"ws": codes_of(plain, [5, 6, 7])}, folder / "codes.safetensors")
    save_directions({"age": age()}, folder / "age.safetensors")
    return folder


def age() -> Direction:
    return Direction(torch.nn.functional.normalize(torch.arange(8.0), dim=0), (1, 3), 0.9)


def codes_of(generator: Generator, seeds: list[int], psi: float = 1.0, label: int | None = None) -> torch.Tensor:
    z = torch.from_numpy(latents_of(seeds, 8))
    c_dim = generator.config.c_dim
    c = torch.eye(c_dim)[[label if label is not None else seed % c_dim for seed in seeds]] if c_dim else None
    return generator.mapping(z, c, psi=psi)


def pixels(generator: Generator, ws: torch.Tensor) -> NDArray[np.uint8]:
    return as_uint8(generator.synthesis(ws).numpy())


def tiles(page: Path, *, rows: int, columns: int) -> NDArray[np.uint8]:
    """Return the images [rows, columns, H, W, 3] of a page with one line of words above and one column of them left."""
    with Image.open(page) as picture:
        seen = np.asarray(picture.convert("RGB"))
    pitch = SIDE + 2  # with the gap
    top, left = seen.shape[0] - rows * pitch + 2, seen.shape[1] - columns * pitch + 2
    seen = np.pad(seen[top:, left:], ((0, 2), (0, 2), (0, 0)))
    return seen.reshape(rows, pitch, columns, pitch, 3).swapaxes(1, 2)[:, :, :SIDE, :SIDE]


def near(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> bool:
    """Whether images differ by at most one step: another batch sums in another order."""
    return bool(np.abs(a.astype(int) - b).max() <= 1)


# ---- pages ----


def test_a_page_has_a_row_for_each_class_and_psi(files: Path, classed: Generator, tmp_path: Path) -> None:
    config = SampleConfig(seeds=(3, 1), psis=(0.5, 1.0), classes=(2, 0))
    facts = sample_file(files / "classed.safetensors", tmp_path / "a.png", config)
    assert facts == {"images": 8, "backend": "torch"}
    seen = tiles(tmp_path / "a.png", rows=4, columns=2)
    for row, (label, psi) in enumerate([(2, 0.5), (2, 1.0), (0, 0.5), (0, 1.0)]):
        assert near(seen[row], pixels(classed, codes_of(classed, [3, 1], psi, label)))


def test_without_a_class_it_is_that_of_the_seed(files: Path, classed: Generator, tmp_path: Path) -> None:
    sample_file(files / "classed.safetensors", tmp_path / "a.png", SampleConfig(seeds=(4, 5)))
    assert near(tiles(tmp_path / "a.png", rows=1, columns=2)[0], pixels(classed, codes_of(classed, [4, 5])))


def test_sixteen_seeds_are_two_rows_of_eight(files: Path, plain: Generator, tmp_path: Path) -> None:
    assert sample_file(files / "plain.safetensors", tmp_path / "a.png")["images"] == 16
    expected = pixels(plain, codes_of(plain, list(range(16))))
    assert near(tiles(tmp_path / "a.png", rows=1, columns=8)[0], expected[8:])


def test_one_image_is_written_as_it_is(files: Path, plain: Generator, tmp_path: Path) -> None:
    sample_file(files / "plain.safetensors", tmp_path / "a.webp", SampleConfig(seeds=(3,)))
    with Image.open(tmp_path / "a.webp") as picture:
        assert picture.format == "WEBP"
        assert near(np.asarray(picture), pixels(plain, codes_of(plain, [3]))[0])


def test_the_words_name_seed_class_and_psi(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pages: list[list[tuple[list[str], str]]] = []

    def labelled(rows: list[Any]) -> NDArray[np.uint8]:
        pages.append([(list(row.above), row.left) for row in rows])
        return np.zeros((1, 1, 3), np.uint8)

    monkeypatch.setattr(pictures, "labelled_page", labelled)
    plain, classed, out = files / "plain.safetensors", files / "classed.safetensors", tmp_path / "a.png"
    sample_file(plain, out, SampleConfig(seeds=(3, 1), psis=(0.5, 1.0)))
    sample_file(classed, out, SampleConfig(seeds=(3, 4)))
    sample_file(classed, out, SampleConfig(seeds=(3, 4), classes=(2,)))
    sample_file(plain, out, SampleConfig(codes=files / "codes.safetensors"))
    assert pages == [
        [(["seed 3", "seed 1"], "psi 0.5"), ([], "psi 1")],
        [(["seed 3\nclass 0", "seed 4\nclass 1"], "psi 1")],
        [(["seed 3", "seed 4"], "class 2\npsi 1")],
        [(["code 0", "code 1", "code 2"], "")],
    ]


# ---- mixed, edited and saved codes ----


def test_mixes_take_layers_of_other_seeds(files: Path, classed: Generator, tmp_path: Path) -> None:
    mixes = (Mix(7, (4, 5)), Mix(9, (5,)))
    config = SampleConfig(seeds=(1, 2), psis=(0.7,), classes=(1,), mixes=mixes)
    sample_file(files / "classed.safetensors", tmp_path / "a.png", config)
    ws = codes_of(classed, [1, 2], 0.7, 1)
    ws[:, 4:5], ws[:, 5:] = (codes_of(classed, [seed], 0.7, 1)[:, :1] for seed in (7, 9))
    assert near(tiles(tmp_path / "a.png", rows=1, columns=2)[0], pixels(classed, ws))


def test_edits_move_codes_of_seeds(files: Path, plain: Generator, tmp_path: Path) -> None:
    edits = ("age=1.5", "age=0.5")
    config = SampleConfig(seeds=(1, 2), psis=(0.8,), edits=edits, directions=files / "age.safetensors")
    sample_file(files / "plain.safetensors", tmp_path / "a.png", config)
    ws = codes_of(plain, [1, 2], 0.8)
    ws[:, 1:4] += 2.0 * 0.9 * age().vector
    assert near(tiles(tmp_path / "a.png", rows=1, columns=2)[0], pixels(plain, ws))


@pytest.mark.parametrize("model", ["plain.safetensors", "ws.onnx"])
def test_saved_codes_are_drawn_and_edited(model: str, files: Path, plain: Generator, tmp_path: Path) -> None:
    config = SampleConfig(codes=files / "codes.safetensors")
    assert sample_file(files / model, tmp_path / "a.png", config)["images"] == 3
    ws = codes_of(plain, [5, 6, 7])
    assert near(tiles(tmp_path / "a.png", rows=1, columns=3)[0], pixels(plain, ws))
    edited = replace(config, edits=("age=2",), directions=files / "age.safetensors")
    sample_file(files / model, tmp_path / "b.png", edited)
    assert near(tiles(tmp_path / "b.png", rows=1, columns=3)[0], pixels(plain, age().move(ws, 2.0)))


def test_seeds_are_mixed_into_saved_codes(files: Path, plain: Generator, tmp_path: Path) -> None:
    config = SampleConfig(codes=files / "codes.safetensors", mixes=(Mix(2, (0,)),))
    sample_file(files / "plain.safetensors", tmp_path / "a.png", config)
    ws = codes_of(plain, [5, 6, 7])
    ws[:, 0] = codes_of(plain, [2])[:, 0]
    assert near(tiles(tmp_path / "a.png", rows=1, columns=3)[0], pixels(plain, ws))


# ---- one file each ----


class Heard(Reporter):
    def __init__(self) -> None:
        self.words: list[str] = []

    def message(self, text: str) -> None:
        self.words.append(text)


def test_each_image_gets_a_file_of_its_own(files: Path, plain: Generator, tmp_path: Path) -> None:
    seeds = (*range(9), 12345)
    facts = sample_file(files / "plain.safetensors", tmp_path / "d", SampleConfig(seeds=seeds, each=True))
    assert facts["images"] == 10
    names = [*(f"seed000{seed}.png" for seed in range(9)), "seed12345.png"]
    assert sorted(path.name for path in (tmp_path / "d").iterdir()) == names
    with Image.open(tmp_path / "d" / "seed0008.png") as picture:
        assert near(np.asarray(picture), pixels(plain, codes_of(plain, [8]))[0])


def test_several_psis_and_classes_are_in_the_names(files: Path, classed: Generator, tmp_path: Path) -> None:
    config = SampleConfig(seeds=(3,), psis=(0.5, 1.0), classes=(0, 2), each=True)
    sample_file(files / "classed.safetensors", tmp_path / "d", config)
    names = [f"seed0003-class{label}-psi{psi}.png" for label in (0, 2) for psi in ("0.5", "1")]
    assert sorted(path.name for path in (tmp_path / "d").iterdir()) == names
    with Image.open(tmp_path / "d" / "seed0003-class2-psi0.5.png") as picture:
        assert near(np.asarray(picture), pixels(classed, codes_of(classed, [3], 0.5, 2))[0])


def test_a_folder_with_other_files_is_mentioned(files: Path, tmp_path: Path) -> None:
    codes, heard = SampleConfig(codes=files / "codes.safetensors", each=True), Heard()
    for _ in range(2):
        sample_file(files / "plain.safetensors", tmp_path / "d", codes, reporter=heard)
    assert heard.words == [] and (tmp_path / "d" / "code0002.png").is_file()
    sample_file(files / "plain.safetensors", tmp_path / "d", SampleConfig(seeds=(0,), each=True), reporter=heard)
    assert heard.words == [f"{tmp_path / 'd'} also holds 3 other files, such as code0000.png"]


# ---- animations ----


def test_an_animation_goes_round_through_w(files: Path, plain: Generator, tmp_path: Path) -> None:
    config = SampleConfig(interpolate=(1, 2, 3), frames=12, psis=(0.7,))
    assert sample_file(files / "plain.safetensors", tmp_path / "a.webp", config)["images"] == 12
    with Image.open(tmp_path / "a.webp") as picture:
        seen = [np.asarray(one.convert("RGB")) for one in ImageSequence.Iterator(picture)]
    keys = codes_of(plain, [1, 2, 3], 0.7)
    wanted = pixels(plain, torch.stack([keys[0], keys[1], keys[2], (keys[2] + keys[0]) / 2]))
    for frame, image in zip((0, 4, 8, 10), wanted, strict=True):
        others = [np.abs(one.astype(int) - image).mean() for one in seen]
        assert int(np.argmin(others)) == frame  # WebP loses a little, but less than lies between two frames


@pytest.mark.parametrize("model", ["plain.safetensors", "ws.onnx"])
def test_an_animation_goes_through_saved_codes(model: str, files: Path, tmp_path: Path) -> None:
    config = SampleConfig(codes=files / "codes.safetensors", interpolate=(0, 2))
    assert sample_file(files / model, tmp_path / "a.gif", config)["images"] == 50
    with Image.open(tmp_path / "a.gif") as picture:
        assert picture.n_frames == 50 and picture.size == (SIDE, SIDE)


@given(st.integers(2, 5), st.floats(0, 1, exclude_max=True))
def test_the_way_is_closed_straight_and_of_even_speed(count: int, share: float) -> None:
    keys = torch.eye(count)[:, None]
    place = share * count
    expected = np.zeros(count)
    expected[int(place)] += 1 - place % 1
    expected[(int(place) + 1) % count] += place % 1
    assert np.allclose(between(keys, [share])[0, 0], expected, atol=1e-6)


# ---- refusals ----

CODES = Path("codes.safetensors")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (SampleConfig(codes=CODES, seeds=(1,)), "--seeds and --codes"),
        (SampleConfig(codes=CODES, psis=(1.0,)), "--psi and --codes"),
        (SampleConfig(codes=CODES, classes=(1,)), "--class and --codes"),
        (SampleConfig(frames=9), "--frames without --interpolate"),
        (SampleConfig(interpolate=(1, 2), seeds=(1,)), "--seeds and --interpolate"),
        (SampleConfig(interpolate=(1, 2), each=True), "--each and --interpolate"),
        (SampleConfig(interpolate=(1, 2), psis=(0.5, 1.0)), "--psi has 2 values"),
        (SampleConfig(interpolate=(1, 2), classes=(0, 1)), "--class has 2 values"),
        (SampleConfig(interpolate=(1,)), "--interpolate has one seed"),
        (SampleConfig(interpolate=(1, 2, 3), frames=2), "--frames 2 for 3 seeds"),
        (SampleConfig(edits=("age=2",)), "--direction needs a file"),
        (SampleConfig(directions=Path("age.safetensors")), "--directions without --direction"),
        (SampleConfig(psis=(float("nan"),)), "not finite"),
        (SampleConfig(seeds=(2**32,)), "seed 4294967296 is outside"),
        (SampleConfig(mixes=(Mix(2**32, (0,)),)), "seed 4294967296 is outside"),
        (SampleConfig(interpolate=(0, 2**32)), "seed 4294967296 is outside"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_makes_no_sense_is_refused_before_the_model_is_read(
    config: SampleConfig, words: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=words):
        sample_file(tmp_path / "gone", tmp_path / "a.png", config)


@pytest.mark.parametrize(
    ("config", "name", "words"),
    [
        (SampleConfig(), "a.bmp", "a.bmp: .bmp is not a suffix of a picture"),
        (SampleConfig(), "a.mp4", "known: .png, .jpg, .jpeg, .webp"),
        (SampleConfig(interpolate=(1, 2)), "a.png", "known: .gif, .webp, .mp4"),
        (SampleConfig(each=True), "a.jpg", "--each writes a folder"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_suffix_is_refused_before_the_model_is_read(
    config: SampleConfig, name: str, words: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as caught:
        sample_file(tmp_path / "gone", tmp_path / name, config)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("model", "changes", "kind", "words"),
    [
        ("plain.safetensors", {"classes": (0,)}, UsageError, "not class-conditional"),
        ("plain.safetensors", {"classes": (0,), "mixes": (Mix(1, (0,)),)}, UsageError, "not class-conditional"),
        ("z.onnx", {"classes": (0,)}, UsageError, "not class-conditional"),
        ("classed.safetensors", {"classes": (1, 3)}, UsageError, "--class 3"),
        ("plain.safetensors", {"mixes": (Mix(1, (5, 6)),)}, UsageError, "no layer 6"),
        ("plain.safetensors", {"interpolate": (0, 3), "codes": CODES}, UsageError, "no code 3"),
        ("z.onnx", {"codes": CODES}, UsageError, "export --inputs ws"),
        ("z.onnx", {"mixes": (Mix(1, (0,)),)}, UsageError, "takes z, psi, not codes"),
        ("ws.onnx", {}, UsageError, "sample --codes"),
        ("ws.onnx", {"mixes": (Mix(1, (0,)),), "codes": CODES}, UsageError, "--mix needs codes of seeds"),
        ("ws.onnx", {"interpolate": (0, 3)}, UsageError, "--interpolate needs codes of seeds"),
        ("ws.onnx", {"edits": ("age=1",), "directions": Path("age.safetensors")}, UsageError, "--codes FILE"),
        ("ws.onnx", {"codes": Path("age.safetensors")}, InputError, "belong to --directions"),
        ("ws.onnx", {"codes": Path("gone.npz")}, InputError, "gone.npz"),
    ],
    ids=lambda value: str(value) if isinstance(value, str) else "",
)
def test_what_a_model_cannot_do_is_refused(
    model: str, changes: dict[str, Any], kind: type[DcpDeployError], words: str, files: Path, tmp_path: Path
) -> None:
    paths = {name: files / value for name, value in changes.items() if isinstance(value, Path)}
    out = tmp_path / ("a.gif" if "interpolate" in changes else "a.png")
    with pytest.raises(kind) as caught:
        sample_file(files / model, out, SampleConfig(**{**changes, **paths}))
    assert words in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_page_beyond_the_format_is_refused_before_it_is_drawn(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "draw", None)
    config = SampleConfig(seeds=tuple(range(1025)), psis=(0.5, 1.0))
    with pytest.raises(UsageError, match=r"a\.webp: 16400 x 32 pixels"):
        sample_file(files / "plain.safetensors", tmp_path / "a.webp", config)
