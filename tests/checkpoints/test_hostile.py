"""Files made to run code, to reach other memory or to exhaust the machine are refused without side effects."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dcp_deploy.checkpoints import load_generator, read_checkpoint
from dcp_deploy.errors import CorruptFileError, InputError, UnsafeFileError
from dcp_deploy.generators import Generator

from . import assembler as a
from . import nvidia_writer, small_files

DATA = Path(__file__).parents[1] / "data" / "checkpoints"

# ---- code that makes a directory in Python's unpickler, as the first test proves; here it must not run ----

Make = Callable[[str], bytes]

PAYLOADS: dict[str, tuple[str, Make]] = {
    "os.mkdir": ("os.mkdir", lambda d: a.call(a.name("os", "mkdir"), a.text(d))),
    "os.system": ("posix.system", lambda d: a.call(a.name("posix", "system"), a.text(f"mkdir '{d}'"))),
    "short global": ("os.mkdir", lambda d: b"cos\nmkdir\n" + a.tupled(a.text(d)) + pickle.REDUCE),
    "newobj": ("os.mkdir", lambda d: a.name("subprocess", "Popen") + a.tupled(a.text("true")) + pickle.NEWOBJ),
    "eval": (
        "builtins.eval",
        lambda d: a.call(a.name("builtins", "eval"), a.text(f"__import__('os').mkdir({d!r})")),
    ),
    "exec": ("builtins.exec", lambda d: a.call(a.name("builtins", "exec"), a.text(f"import os; os.mkdir({d!r})"))),
    "getattr": (
        "builtins.getattr",
        lambda d: a.call(
            a.call(
                a.name("builtins", "getattr"),
                a.call(a.name("importlib", "import_module"), a.text("os")),
                a.text("mkdir"),
            ),
            a.text(d),
        ),
    ),
    "a dotted name": ("pathlib.os.mkdir", lambda d: a.call(a.name("pathlib", "os.mkdir"), a.text(d))),
    "a dotted name in a known module": (
        "collections._sys.modules",
        lambda d: a.name("collections", "_sys.modules") + pickle.POP + PAYLOADS["os.mkdir"][1](d),
    ),
    "an evil callback": (
        "os.mkdir",
        lambda d: a.call(a.name("functools", "partial"), a.name("os", "mkdir")),
    ),
}
RUNNABLE = [name for name in PAYLOADS if name not in ("newobj", "an evil callback")]


@pytest.mark.parametrize("name", RUNNABLE)
def test_the_payloads_run_in_python_s_unpickler(tmp_path: Path, name: str) -> None:
    target = tmp_path / "made"
    pickle.loads(a.whole(PAYLOADS[name][1](str(target))))
    assert target.is_dir()


def nested(body: bytes) -> bytes:
    """Return a snapshot with the code in the stream of a storage, where a reader might call torch.load."""
    stream = a.storage(bytes(16))
    evil = a.whole(a.number(a.MAGIC)) + a.whole(a.number(1001)) + a.whole(body) + stream
    return a.snapshot(a.module("Generator", parameters=a.mapped((a.text("x"), a.tensor(evil, size=(1,), stride=(1,))))))


def in_torch_zip(body: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", a.whole(a.mapped((a.text("g_ema"), body))))
        archive.writestr("archive/version", "3\n")
    return stream.getvalue()


def in_torch_legacy(body: bytes) -> bytes:
    facts = a.mapped((a.text("little_endian"), pickle.NEWTRUE))
    return b"".join(map(a.whole, (a.number(a.MAGIC), a.number(1001), facts, a.mapped((a.text("g"), body)), a.listed())))


CARRIERS: dict[str, Callable[[bytes], bytes]] = {
    "bare": a.whole,
    "G_ema": a.snapshot,
    "the discriminator": lambda body: a.whole(a.mapped((a.text("D"), body), (a.text("G_ema"), a.module("Generator")))),
    "a parameter": lambda body: a.snapshot(a.module("Generator", parameters=a.mapped((a.text("x"), body)))),
    "a storage": nested,
    "tensorflow": lambda body: a.whole(a.name("dnnlib.tflib.network", "Network") + pickle.POP + body),
    "torch zip": in_torch_zip,
    "torch legacy": in_torch_legacy,
}


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize("name", PAYLOADS)
def test_code_in_a_file_is_named_and_never_runs(tmp_path: Path, name: str, carrier: str) -> None:
    named, make = PAYLOADS[name]
    target, path = tmp_path / "made", tmp_path / "evil.pkl"
    path.write_bytes(CARRIERS[carrier](make(str(target))))
    with pytest.raises(UnsafeFileError) as caught:
        load_generator(path)
    assert not target.exists()
    assert caught.value.exit_code == 3
    assert str(path) in str(caught.value)
    assert "not executed" in str(caught.value)
    if name not in ("getattr", "newobj"):
        assert named in str(caught.value)


def test_the_evil_file_of_the_original_pickler_is_refused() -> None:
    with pytest.raises(UnsafeFileError, match=r"posix\.system"):
        load_generator(DATA / "evil_os_system.pkl")


def test_source_text_in_a_good_file_is_not_run() -> None:
    with pytest.raises(RuntimeError, match="was executed"):
        exec(nvidia_writer.SOURCE_TEXT)
    assert nvidia_writer.SOURCE_TEXT.encode() in (DATA / "trojan_module_src.pkl").read_bytes()
    load_generator(DATA / "trojan_module_src.pkl")


def test_a_state_for_one_of_our_stand_ins_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "evil.pkl"
    for target in (
        a.name("torch_utils.persistence", "_reconstruct_persistent_obj"),
        a.name("collections", "OrderedDict"),
        a.name("numpy", "dtype"),
        a.name("torch.storage", "_load_from_bytes"),
        a.module("Generator"),
    ):
        slots = a.tupled(pickle.NONE, a.mapped((a.text("__code__"), a.number(1)), (a.text("meta"), a.number(2))))
        path.write_bytes(a.whole(target + slots + pickle.BUILD))
        with pytest.raises(CorruptFileError, match="state"):
            load_generator(path)
    load_generator(DATA / "trojan_module_src.pkl")


# ---- damage ----


def regions(data: bytes) -> list[int]:
    """Return lengths to cut a file to: many near its start and end, and some in between."""
    return [*range(0, 400, 13), *range(400, len(data), len(data) // 20), *range(len(data) - 60, len(data), 7)]


@pytest.mark.parametrize("name", ["trojan_module_src.pkl", "dcp_pruned_torch213.pt", "tf_stylegan2_v4_32.pkl"])
def test_a_file_cut_in_any_region_is_refused(tmp_path: Path, name: str) -> None:
    data = (DATA / name).read_bytes()
    path = tmp_path / name
    for end in regions(data):
        path.write_bytes(data[:end])
        with pytest.raises(InputError):
            read_checkpoint(path)


def test_cyclic_and_twisted_records_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "evil.pkl"
    inner = a.mapped() + pickle.MEMOIZE  # its own child: the dictionary of modules gets the module that holds it
    module = a.module("Generator", modules=inner)
    cyclic = module + pickle.BINPUT + b"\x09" + pickle.POP + pickle.BINGET + b"\x00" + a.text("synthesis")
    cyclic += pickle.BINGET + b"\x09" + pickle.SETITEM + pickle.POP + pickle.BINGET + b"\x09"
    for body in (
        cyclic,
        a.module("Generator", modules=a.mapped((a.text("synthesis"), a.number(1)))),
        a.module("Generator", modules=a.listed()),
        a.module("Generator", modules=a.mapped((a.number(1), a.module("x")))),
        a.module("Generator", modules=a.mapped((a.text("a.b\x1b[31m"), a.module("x")))),
        a.module("Generator", parameters=a.mapped((a.text("x"), a.number(1)))),
        a.call(a.name("torch_utils.persistence", "_reconstruct_persistent_obj"), a.number(1)),
        a.call(a.name("torch_utils.persistence", "_reconstruct_persistent_obj")),
    ):
        path.write_bytes(a.snapshot(body))
        with pytest.raises(InputError) as caught:
            load_generator(path)
        assert "\x1b" not in str(caught.value)


def test_the_last_of_two_equal_keys_wins_as_in_python(tiny_generator: Generator, tmp_path: Path) -> None:
    good = nvidia_writer.nvidia_pickle(tiny_generator, keys=("G_ema",), protocol=2)
    first = a.text("G_ema") + a.number(1) + pickle.SETITEM
    assert good[:3] == b"\x80\x02" + pickle.EMPTY_DICT
    path = tmp_path / "twice.pkl"
    path.write_bytes(good[:3] + first + good[3:])
    assert load_generator(path).widths == tiny_generator.widths


NESTED = pickle.EMPTY_TUPLE + pickle.TUPLE1 * 400_000  # hashing it overflows the stack of the interpreter

# ---- bombs: in a process that may take half a gigabyte more than when idle, and ten seconds for each ----


def shared_modules() -> bytes:
    """Return eleven levels of a hundred children each, all of them the same record."""
    body = a.module("leaf") + pickle.BINPUT + b"\x00" + pickle.POP
    for _ in range(11):
        children = a.mapped(*[(a.text(f"m{i}"), pickle.BINGET + b"\x00") for i in range(100)])
        body += a.module("node", modules=children) + pickle.BINPUT + b"\x00" + pickle.POP
    return bytes(a.snapshot(body + pickle.BINGET + b"\x00"))


def nested_modules() -> bytes:
    whole = a.module("node", modules=a.mapped((a.text("m"), pickle.STOP)))
    before, after = whole.split(pickle.STOP + pickle.SETITEMS)
    return bytes(a.snapshot(before * 2_000 + a.module("leaf") + (pickle.SETITEMS + after) * 2_000))


def terabyte_array() -> bytes:
    """Return a TensorFlow pickle with an array of a terabyte."""
    core = "numpy.core.multiarray"
    made = a.call(a.name(core, "_reconstruct"), a.name("numpy", "ndarray"), a.tupled(a.number(0)), a.raw(b"b"))
    kind = a.call(a.name("numpy", "dtype"), a.text("f4"))
    state = a.tupled(a.number(1), a.tupled(a.number(1 << 40)), kind, pickle.NEWFALSE, a.raw(bytes(4)))
    return bytes(a.whole(a.name("dnnlib.tflib.network", "Network") + pickle.POP + made + state + pickle.BUILD))


def deflated() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", a.whole(a.mapped()))
        archive.writestr("archive/data/0", bytes(1 << 27))
    return stream.getvalue()


def native(header: Any) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text


def native_config(**config: Any) -> bytes:
    whole = {"resolution": 8, "widths": [2, 2, 2, 2], "z_dim": 2, "w_dim": 2, "mapping_layers": 1, **config}
    document = {"format": "dcp-deploy.generator", "version": 1, "config": whole, "extra": {}}
    return native({"__metadata__": {"dcp-deploy.generator": json.dumps(document)}})


def stylegan3_layout(**layout: Any) -> dict[str, Any]:
    return {
        "kind": "stylegan3",
        "resolution": 8192,
        "widths": [2] * 65,
        "layout": {"fourier_features": 2, "num_layers": 64, "radial": True, **layout},
    }


BOMBS: dict[str, Callable[[], bytes]] = {
    "a terabyte of one value": lambda: a.snapshot(
        a.module(
            "Generator",
            parameters=a.mapped((a.text("x"), a.tensor(a.storage(bytes(4)), size=(1 << 40,), stride=(0,)))),
        )
    ),
    "an array of a terabyte": terabyte_array,
    "a memo index of four billion": lambda: a.whole(a.mapped() + pickle.LONG_BINPUT + b"\xff" * 4),
    "a text of an exabyte": lambda: a.PROTO + pickle.BINUNICODE8 + struct.pack("<Q", 1 << 60),
    "bytes of an exabyte": lambda: a.PROTO + pickle.BYTEARRAY8 + struct.pack("<Q", 1 << 60),
    "an integer of two gigabytes": lambda: a.PROTO + pickle.LONG4 + struct.pack("<I", (1 << 31) - 1),
    "a million sets in a list": lambda: a.whole(a.listed(pickle.EMPTY_SET * 1_000_000)),
    "a hundred thousand nested lists": lambda: a.whole(pickle.EMPTY_LIST * 100_000 + pickle.APPEND * 99_999),
    "a nested tuple as a key": lambda: a.whole(a.mapped((pickle.EMPTY_TUPLE + pickle.TUPLE1 * 50_000, a.number(1)))),
    "a nested tuple as the name of an option": lambda: in_torch_zip(
        a.call(a.name("argparse", "Namespace"), a.listed(a.tupled(NESTED, a.number(1))))
    ),
    "one long text for a hundred thousand devices": lambda: in_torch_zip(
        a.text("x" * 1_000_000)
        + pickle.BINPUT
        + b"\x00"
        + (a.name("torch", "device") + pickle.BINGET + b"\x00" + pickle.TUPLE1 + pickle.REDUCE + pickle.POP) * 100_000,
    ),
    "a tree of pairs": lambda: a.snapshot(
        a.number(1) + (pickle.BINPUT + b"\x00" + pickle.BINGET + b"\x00" + pickle.TUPLE2) * 10_000
    ),
    "numbers of one hash": lambda: a.whole(
        a.mapped(*[(a.number(n * ((1 << 61) - 1)), pickle.NONE) for n in range(50_000)])
    ),
    "shared modules": shared_modules,
    "nested modules": nested_modules,
    "a deflated archive": deflated,
    "a long safetensors header": lambda: struct.pack("<Q", 0xFFFFFFFF) + b"{" + bytes(100),
    "a nested safetensors header": lambda: native(b'{"a":' + b"[" * 5_000_000),
    "nested metadata": lambda: native({"__metadata__": {"dcp-deploy.generator": '{"a":' * 200_000}}),
    "a native config with huge widths": lambda: native_config(widths=[1 << 60] * 4),
    "a native config with a huge class count": lambda: native_config(c_dim=1 << 60),
    "a native config with a huge layout": lambda: native_config(**stylegan3_layout(filter_size=64)),
}

LIMITED = """
import json, resource, sys, time
from pathlib import Path
from dcp_deploy.checkpoints import read_checkpoint
from dcp_deploy.errors import InputError

warm, snapshot, *bombs = sys.argv[1:]
read_checkpoint(warm)  # everything is imported and warm
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
read_checkpoint(snapshot)
growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
pages = int(Path("/proc/self/statm").read_text().split()[0])
most = pages * resource.getpagesize() + (500 << 20)
resource.setrlimit(resource.RLIMIT_AS, (most, most))
results = {}
for path in bombs:
    start = time.process_time()
    try:
        read_checkpoint(path)
        results[path] = "read"
    except InputError as error:
        results[path] = type(error).__name__
    except BaseException as error:
        results[path] = repr(error)[:300]
    if time.process_time() - start > 10:
        results[path] += " after more than ten seconds"
print(json.dumps([growth, *results.values()]))
"""


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, dict[str, str]]:
    """Memory in bytes for a snapshot with a large discriminator, and the result of each bomb, from one process."""
    folder = tmp_path_factory.mktemp("limited")

    def enlarge(document: dict[str, Any]) -> None:
        document["D"].state["_parameters"].update(large=torch.zeros(12_500_000))

    snapshot = folder / "snapshot"
    snapshot.write_bytes(nvidia_writer.nvidia_pickle(small_files.stylegan2(), change=enlarge))
    assert snapshot.stat().st_size > 50_000_000
    paths = [folder / f"bomb{i}" for i in range(len(BOMBS))]
    for path, make in zip(paths, BOMBS.values(), strict=True):
        path.write_bytes(make())
    command = [sys.executable, "-c", LIMITED, str(DATA / "trojan_module_src.pkl"), str(snapshot), *map(str, paths)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    growth, *results = json.loads(done.stdout.splitlines()[-1])
    return growth, dict(zip(BOMBS, results, strict=True))


def test_bombs_are_refused_within_bounds(limited: tuple[int, dict[str, str]]) -> None:
    """The process survives each bomb, and none raises anything but our errors."""
    assert not {name: result for name, result in limited[1].items() if not result.endswith("Error")}


def test_a_network_that_is_not_needed_costs_no_memory(limited: tuple[int, dict[str, str]]) -> None:
    assert limited[0] < 20_000_000


def test_views_larger_than_their_storage_are_refused_in_networks(
    nvidia_file: Callable[..., Path], tiny_generator: Generator
) -> None:
    """Here every tensor of the network is a view of one number."""

    def change(document: dict[str, Any]) -> None:
        one = torch.zeros(1)
        for name in ("mapping.fc0", "mapping.fc1"):
            document["G_ema"].at(name).state["_parameters"]["weight"] = one.expand(16, 16)

    with pytest.raises(CorruptFileError, match="does not fit"):
        load_generator(nvidia_file(tiny_generator, change=change))
