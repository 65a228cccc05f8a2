"""A packed bundle is accepted only if every unpacker makes the same files of it."""

from __future__ import annotations

import hashlib
import io
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from random import Random

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.main import get_command

from dcp_deploy.cli.app import app
from dcp_deploy.errors import CorruptFileError, InputError, UnsafeFileError, UsageError
from dcp_deploy.export import archive as archives
from dcp_deploy.export.bundle.writer import Contents, write_bundle
from dcp_deploy.export.integrity import check_bundle, pack, seal

from ..bundle_facts import FACTS
from . import differential
from .forged_archives import (
    BLOCK,
    RECORD,
    changed,
    ended,
    entries_of,
    entry,
    header,
    packed,
    random_archive,
    random_files,
    sealed,
    skippable,
    stored,
)  # fmt: skip

FILES = {"models/generator/1/model.py": b"good", "z": b"z" * 600}
GOOD = entries_of(FILES)
BEGIN = b"".join(GOOD[:2])  # manifest and seal
MODEL = "small/models/generator/1/model.py"
FORGED = entry(MODEL, b"evil")
BROKEN = header("small/x", 0, major=b"zzzzzzz")  # Python's tarfile takes it for the end, GNU tar reads on
WRONG_SUM = header("small/x", 0)[:148] + b"0000000\0" + header("small/x", 0)[156:]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("archives") / "x.tar.zst"


def check(place: Path, content: bytes) -> None:
    place.write_bytes(content)
    check_bundle(place)


def folder_of(files: dict[str, bytes], folder: Path) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    seal(folder, FACTS)
    return folder


# ---- what is written ----


def test_the_tar_is_the_one_that_tarfile_writes(tmp_path: Path) -> None:
    folder = folder_of({**FILES, "n" * 50 + "/" + "ü" * 25 + "/" + "m" * 60: b"", "a" * 80: b"1"}, tmp_path / "small")
    pack(folder, tmp_path / "x.tar.zst")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        rest = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        for name in ["manifest.json", "manifest.sha256", *(name for name in rest if "manifest." not in name)]:
            info = tarfile.TarInfo(f"small/{name}")
            info.size = (folder / name).stat().st_size
            tar.addfile(info, io.BytesIO((folder / name).read_bytes()))
    raw = (tmp_path / "x.tar.zst").read_bytes()
    assert zstandard.ZstdDecompressor().stream_reader(raw).read() == buffer.getvalue()


def test_an_archive_needs_a_name_before_its_suffix(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no name before"):
        write_bundle(Contents("x", {}, "", {}), tmp_path / ".tar.zst")


def test_a_name_or_size_that_ustar_cannot_hold_is_refused_and_the_earlier_archive_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier = tmp_path / "x.tar.zst"
    earlier.write_bytes(b"earlier")
    for top, name in (("t" * 160, "a"), ("t", "a" * 101), ("t" * 90, "b" * 90 + "/" + "a" * 90)):
        with pytest.raises(UsageError, match="does not fit into an archive: its name is too long"):
            pack(folder_of({name: b""}, tmp_path / top), earlier)
    with pytest.raises(ValueError, match="8 GiB"):
        archives._header(b"a", 8**11)
    assert archives._header(b"a", 8**11 - 1)[124:136] == b"7" * 11 + b"\0"
    monkeypatch.setattr(archives, "SMALL", 0)
    with pytest.raises(
        UsageError, match="zeros does not fit into an archive"
    ):  # refused here as it would be when it is read
        pack(folder_of({"zeros": bytes(100_000)}, tmp_path / "zeros"), earlier)
    assert earlier.read_bytes() == b"earlier"
    assert sorted(path.name for path in tmp_path.glob("*.tar.zst*")) == ["x.tar.zst"]


@pytest.mark.parametrize("name", differential.UNPACKERS)
def test_an_unpacker_gives_the_packed_files(tmp_path: Path, name: str) -> None:
    unpacker = differential.UNPACKERS[name]
    if unpacker is None:
        pytest.skip(f"{name} or its zstd is not installed")
    folder = folder_of({**FILES, "ä/" + "n" * 90: b"x", "empty": b""}, tmp_path / "t" / ("s" * 120))
    pack(folder, tmp_path / "x.tar.zst")
    files = differential.unpacked(tmp_path / "x.tar.zst", tmp_path, unpacker)
    packed_files = [path for path in folder.rglob("*") if path.is_file()]
    assert files == {path.relative_to(folder.parent).as_posix(): path.read_bytes() for path in packed_files}
    assert check_bundle(tmp_path / "x.tar.zst") == check_bundle(folder)


# ---- what is accepted ----


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=60)
def test_an_archive_in_any_frame_is_accepted(place: Path, seed: int) -> None:
    random = Random(seed)
    check(place, packed(ended(entries_of(random_files(random))), random))


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=200)
def test_another_tar_of_the_same_bundle_is_refused(place: Path, seed: int) -> None:
    random = Random(seed)
    entries = entries_of(random_files(random))
    tar = changed(entries, random)
    if tar != ended(entries):
        with pytest.raises(InputError):
            check(place, packed(tar, random))


def test_a_change_of_any_byte_of_headers_padding_and_end_is_refused(place: Path) -> None:
    tar = ended(GOOD)
    start = len(BEGIN)
    places = [*range(start, start + 2 * BLOCK, 3), *range(len(tar) - RECORD // 2, len(tar), 37)]
    for where in places:
        for value in (0, 48, 255):
            if tar[where] != value:
                with pytest.raises(InputError):
                    check(place, zstandard.compress(tar[:where] + bytes([value]) + tar[where + 1 :], 1))


def test_what_is_accepted_is_unpacked_alike_by_all_unpackers(tmp_path: Path) -> None:
    """2,000 of them: ``python -m tests.fuzz.fuzz_archives 2000``."""
    results = [differential.difference(random_archive(seed), tmp_path) for seed in range(10_000, 10_200)]
    assert 40 < results.count("accepted") < 160


# ---- forged tars ----

PLACE = len(BEGIN)
WITHOUT_END = b"".join(GOOD)
TYPES = {  # what tar programs make of them
    "\0": "a file of Unix V7", "1": "hard link", "2": "link", "3": "character device", "4": "block device",
    "5": "folder", "6": "pipe", "7": "contiguous file", "A": "Solaris ACL", "D": "GNU folder", "E": "Solaris attribute",
    "K": "GNU long link", "L": "GNU long name", "M": "GNU continued file", "N": "old GNU long name", "S": "GNU sparse",
    "V": "GNU volume", "X": "Solaris PAX", "g": "global PAX", "x": "PAX", "Z": "unknown",
}  # fmt: skip


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("size", [0, 30])
def test_every_type_but_the_plain_file_is_refused(place: Path, kind: str, size: int) -> None:
    content = b"30 path=small/other/name.txt0\n"[:size]
    odd = entry("small/a", content, type=kind.encode(), link=b"z")
    for tar in (ended([BEGIN, odd, *GOOD[2:]]), ended([odd, *GOOD]), ended([*GOOD, odd])):
        where = tar.index(odd)
        with pytest.raises(UnsafeFileError, match=f"b'small/a' at byte {where} of the tar .* is not a plain file"):
            check(place, zstandard.compress(tar))


FIELDS = {
    "unreadable device": ({"major": b"zzzzzzz"}, "device"),
    "device": ({"minor": b"0000000\0"}, "device"),
    "mode": ({"mode": b"0000755\0"}, "mode"),
    "setuid": ({"mode": b"0004644\0"}, "mode"),
    "owner": ({"uid": b"0001750\0"}, "uid"),
    "group": ({"gid": b"\x80\0\0\0\0\0\0\0"}, "gid"),
    "time": ({"mtime": b"00000000001\0"}, "time"),
    "user name": ({"uname": b"root"}, "user"),
    "group name": ({"gname": b"root"}, "group"),
    "link name": ({"link": b"/etc/passwd"}, "link"),
    "GNU magic": ({"magic": b"ustar  \0"}, "magic"),
    "no magic": ({"magic": b""}, "magic"),
    "version": ({"magic": b"ustar\x0001"}, "version"),
    "octal size with spaces": ({"size": b"          4 \0"}, "size"),
    "size of 12 digits": ({"size": b"000000000004"}, "size"),
    "text behind the name": ({"name": MODEL.encode() + b"\0x"}, "name"),
    "prefix of a short name": ({"name": MODEL[6:].encode(), "prefix": b"small"}, "name"),
    "text behind the prefix": ({"prefix": b"\0x"}, "prefix"),
}


@pytest.mark.parametrize("case", FIELDS)
def test_a_header_with_another_field_is_refused_and_the_field_named(place: Path, case: str) -> None:
    fields, named = FIELDS[case]
    odd = entry(MODEL, b"good", **fields)
    with pytest.raises(CorruptFileError, match=f"at byte {PLACE} of the tar .* has another {named} than"):
        check(place, zstandard.compress(ended([BEGIN, odd, *GOOD[3:]])))


HIDDEN = {  # cases of which one unpacker or another reads something else
    "behind an unreadable header": (WITHOUT_END + BROKEN + FORGED, "another device"),
    "behind a wrong checksum": (WITHOUT_END + WRONG_SUM + FORGED, "another checksum"),
    "behind one block of zeros": (WITHOUT_END + bytes(BLOCK) + FORGED, "at the end"),
    "behind two blocks of zeros": (WITHOUT_END + bytes(2 * BLOCK) + FORGED, "at the end"),
    "before the end": (WITHOUT_END + FORGED, "is twice|is behind its place"),
    "in the padding of a file": (WITHOUT_END[:-1] + b"x", "after small/z"),
    "in the header's padding": (BEGIN + GOOD[2][:511] + b"x" + GOOD[2][512:] + GOOD[3], "another padding"),
}
ENDS = {
    "a second archive": (ended(GOOD) + ended([FORGED]), "something after its end"),
    "one byte more": (ended(GOOD) + b"\0", "something after its end"),
    "one record of zeros more": (ended(GOOD) + bytes(RECORD), "something after its end"),
    "one byte less": (ended(GOOD)[:-1], "is cut off: its tar ends at byte"),
    "no end": (WITHOUT_END, "is cut off: its tar ends at byte"),
    "two blocks of zeros and no more": (WITHOUT_END + bytes(2 * BLOCK), "is cut off"),
    "half a header": (WITHOUT_END + BROKEN[:100], "is cut off"),
    "nothing": (b"", "is cut off: its tar ends at byte 0"),
    "zeros": (bytes(RECORD), "has no manifest.json and manifest.sha256"),
    "a size larger than the rest": (BEGIN + header(MODEL, 4, size=b"00000777777\0"), "has 262143 bytes, not 4"),
    "a negative size": (BEGIN + header(MODEL, 4, size=b"-0000000004\0"), "another size"),
    "a binary size": (BEGIN + header(MODEL, 4, size=b"\x80" + bytes(10) + b"\4"), "damaged: invalid literal"),
    "a name that is not UTF-8": (BEGIN + header(MODEL, 4, name=b"small/\xff"), "damaged: .*utf-8"),
}


@pytest.mark.parametrize("case", [*HIDDEN, *ENDS])
def test_hidden_entries_and_other_ends_are_refused_with_their_place(place: Path, case: str) -> None:
    tar, message = {**HIDDEN, **ENDS}[case]
    if case in HIDDEN:
        tar += bytes(-len(tar) % RECORD)
    with pytest.raises(InputError, match=message) as refused:
        check(place, zstandard.compress(tar))
    assert refused.value.exit_code == 3
    assert re.search(r"at byte \d+|'small/models/|manifest\.json and|has 262143", refused.value.message)


@pytest.mark.parametrize(
    "name",
    ["small/../x", "/small/x", "other/x", "../x", "x", "small/", "small//x", "./small/x", "small/./x", "small/a\\b",
     "small/a\nb", "small", ""],
)  # fmt: skip
def test_a_name_out_of_the_one_folder_is_refused(place: Path, name: str) -> None:
    with pytest.raises(UnsafeFileError):
        check(place, zstandard.compress(ended([*GOOD, entry(name)])))


def test_all_files_must_be_in_one_folder_with_a_plain_name(place: Path) -> None:
    for odd in ("other/z", "z", "small"):
        with pytest.raises(UnsafeFileError, match=f"'{odd}' in .* is not in the bundle's one folder"):
            check(place, zstandard.compress(ended([*GOOD[:-1], entry(odd, FILES["z"])])))
    for top in ("..", ".", "", "a\nb", "a\\b"):
        with pytest.raises(UnsafeFileError, match="may lead out of it"):
            check(place, zstandard.compress(ended(entries_of(FILES, top))))


def test_entries_in_another_order_or_below_a_file_are_refused(place: Path) -> None:
    for order in (GOOD[1::-1] + GOOD[2:], GOOD[:2] + GOOD[:1:-1]):
        with pytest.raises(UnsafeFileError, match="behind its place"):
            check(place, zstandard.compress(ended(order)))
    with pytest.raises(UnsafeFileError, match=r"'small/z' in .* is twice"):
        check(place, zstandard.compress(ended([*GOOD, GOOD[-1]])))
    for files in ({"a": b"", "a/b": b""}, {"a": b"", "a/b/c": b"", "a-": b""}, {"manifest.json/x": b""}):
        with pytest.raises(UnsafeFileError, match=r"is below '.*', which is a file"):
            check(place, zstandard.compress(ended(entries_of(files))))


# ---- forged frames ----

TAR = ended(GOOD)
FRAME = zstandard.ZstdCompressor(write_checksum=True).compress(TAR)
MAGIC = FRAME[:4]


def declared(size: int) -> bytes:
    return MAGIC + b"\xa0" + size.to_bytes(4, "little") + stored(TAR)[6:]


FRAMES = {
    "two frames": (zstandard.compress(TAR[:5000]) + zstandard.compress(TAR[5000:]), "something after its end, at byte"),
    "an empty frame behind": (FRAME + zstandard.compress(b""), f"something after its end, at byte {len(FRAME)}"),
    "a skippable frame behind": (FRAME + skippable(b"x"), f"something after its end, at byte {len(FRAME)}"),
    "a skippable frame before": (skippable(b"") + FRAME, "does not begin with a zstd frame, at byte 0"),
    "one byte behind": (FRAME + b"\0", f"something after its end, at byte {len(FRAME)}"),
    "zeros behind": (FRAME + bytes(1 << 20), f"something after its end, at byte {len(FRAME)}"),
    "no checksum where one is announced": (FRAME[:-4], f"is cut off at byte {len(FRAME) - 4}"),
    "a wrong checksum": (FRAME[:-1] + bytes([FRAME[-1] ^ 1]), "damaged after byte .*checksum"),
    "half": (FRAME[: len(FRAME) // 2], "is cut off at byte"),
    "a larger declared size": (declared(len(TAR) + 1), "damaged"),
    "a smaller declared size": (declared(len(TAR) - 1), "damaged"),
    "a dictionary": (MAGIC + b"\x01\x58\x07" + stored(TAR)[6:], "needs a dictionary"),
    "a window of 16 MB": (MAGIC + b"\x00\x70" + stored(TAR)[6:], "needs a window of 16777216 bytes"),
    "a window of 3 TB": (MAGIC + b"\x00\xff" + stored(TAR)[6:], "needs a window of|damaged"),
    "a reserved block": (stored(TAR)[:6] + b"\x07\0\0", "no zstd block at byte 6"),
    "a block that repeats 2 MB": (stored(TAR)[:6] + b"\xfb\xff\xff\0", "no zstd block at byte 6"),
    "an uncompressed tar": (TAR, "does not begin with a zstd frame"),
    "gzip": (b"\x1f\x8b" + bytes(100), "does not begin with a zstd frame"),
    "nothing": (b"", "does not begin with a zstd frame"),
    "the magic number": (MAGIC, "damaged in its first bytes"),
    "an old version of zstd": (b"\x27" + FRAME[1:], "does not begin with a zstd frame"),
}  # fmt: skip


@pytest.mark.parametrize("case", FRAMES)
def test_anything_but_one_plain_frame_is_refused_with_its_place(place: Path, case: str) -> None:
    content, message = FRAMES[case]
    with pytest.raises(InputError, match=message) as refused:
        check(place, content)
    assert refused.value.exit_code == 3


@pytest.mark.parametrize("command", [["bundle", "verify"], ["inspect"]])
def test_every_command_that_opens_an_archive_ends_with_3(
    place: Path, capfd: pytest.CaptureFixture[str], command: list[str]
) -> None:
    place.write_bytes(zstandard.compress(HIDDEN["behind an unreadable header"][0] + bytes(RECORD)))
    with pytest.raises(SystemExit) as end:
        get_command(app)([*command, str(place)], prog_name="dcp-deploy")
    assert end.value.code == 3
    error = " ".join(capfd.readouterr().err.split())
    assert "Traceback" not in error
    assert f"at byte {len(WITHOUT_END)} of the tar" in error


# ---- work and memory ----


def repeated(*parts: bytes | int) -> bytes:
    """A frame of bytes, and for each number of that many MiB of zeros, which take 32 bytes for each MiB."""
    frame = MAGIC + b"\x00\x68"
    for part in parts:
        if isinstance(part, int):
            frame += part * 8 * (((1 << 17) << 3 | 1 << 1).to_bytes(3, "little") + b"\0")
        else:
            frame += (len(part) << 3).to_bytes(3, "little") + part
    return frame + b"\x01\0\0"


def listing(name: str, size: int) -> bytes:
    """Manifest and seal, as they are at the start of an archive, that list this many zeros."""
    manifest = sealed({name: b""})["manifest.json"].replace(b'"bytes": 0', b'"bytes": %d' % size)
    digest = hashlib.sha256()
    for _ in range(size >> 20):
        digest.update(bytes(1 << 20))
    manifest = manifest.replace(hashlib.sha256(b"").hexdigest().encode(), digest.hexdigest().encode())
    return b"".join(manifest_of(manifest))


def manifest_of(content: bytes) -> list[bytes]:
    seal_line = f"{hashlib.sha256(content).hexdigest()}  manifest.json\n".encode()
    return [entry("small/manifest.json", content), entry("small/manifest.sha256", seal_line)]


def long_name(size: int) -> bytes:
    return header("././@LongLink", size, type=b"L")


SPARSE = b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n33 GNU.sparse.realsize=9999999999\n"
BOMBS = {
    "a long name of 6.4 GB": (repeated(BEGIN + long_name(6_400_000_000), 6_000), "too many small zstd blocks"),
    "a long name of 100 MB": (repeated(BEGIN + long_name(100 << 20), 101), "is not a plain file"),
    "3,000 chained long names": (zstandard.compress((long_name(2) + b"x\0".ljust(512)) * 3_000), "is not a plain file"),
    "a PAX header of 8 GB": (repeated(header("x", 8_000_000_000, type=b"x"), 8_000), "too many small zstd blocks"),
    "PAX sparse": (zstandard.compress(ended([BEGIN, entry("x", SPARSE, type=b"x"), *GOOD[2:]])), "is not a plain file"),
    "8 GB of zeros behind the end": (repeated(TAR, 8_000), "has too many small zstd blocks|something after its end"),
    "200 MB of zeros behind the end": (repeated(TAR, 200), "something after its end, at byte 10240 of its tar"),
    "a manifest of 8 GB": (repeated(header("small/manifest.json", 8_000_000_000), 8_000), "than any|too many small"),
    "a manifest of 100 MB": (repeated(header("small/manifest.json", 100 << 20), 101), "larger than any manifest"),
    "a manifest of 300,000 lists": (
        zstandard.compress(ended(manifest_of(b"[" + b"[]," * 300_000 + b"[]]"))), "not the manifest of a bundle"
    ),
    "100,000 files": (zstandard.compress(BEGIN + entry("small/a") * 100_000), "in the bundle but not in its manifest"),
    "10,000,000 empty zstd blocks": (MAGIC + b"\x00\x68" + bytes(30_000_000) + b"\1\0\0", "too many small zstd blocks"),
    "a window of 1 GB": (MAGIC + b"\x00\xa0" + stored(TAR)[6:], "needs a window of 1073741824 bytes"),
}  # fmt: skip
LARGE_HEAD = listing("z", 200 << 20) + header("small/z", 200 << 20)
LARGE = repeated(LARGE_HEAD, 200, ended([LARGE_HEAD])[len(LARGE_HEAD) :])  # 200 MiB are whole records


@pytest.mark.parametrize("case", BOMBS)
def test_little_is_unpacked_of_what_expands(place: Path, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content, message = BOMBS[case]
    made: list[archives._Tar] = []
    start = archives._Tar.__init__
    monkeypatch.setattr(archives._Tar, "__init__", lambda tar, *values: (made.append(tar), start(tar, *values))[1])
    with pytest.raises(InputError, match=message) as refused:
        check(place, content)
    assert sum(tar.position for tar in made) < 1_000_000
    if blocks := re.search("too many small zstd blocks, up to byte ([0-9]+)", refused.value.message):
        assert int(blocks[1]) < 4 * (2_000 + len(content) // 1024) + RECORD + len(BEGIN)


def test_content_may_expand_only_as_far_as_time_allows(place: Path) -> None:
    zeros = listing("z", 1000 << 20) + header("small/z", 1000 << 20)
    noise = Random(0).randbytes(1 << 17)
    with pytest.raises(UnsafeFileError, match=r"unpacks to more than \d+ bytes, at byte \d+ of its tar"):
        check(place, repeated(zeros, *[noise] * 12, 100))
    check(place, LARGE)


def test_as_many_files_as_a_manifest_can_list_are_accepted(place: Path) -> None:
    tar = ended(entries_of({f"{number:04}": b"" for number in range(9_000)}))
    check(place, zstandard.compress(tar))


def test_no_archive_takes_much_memory(tmp_path: Path) -> None:
    for number, content in enumerate([LARGE, *(content for content, _ in BOMBS.values())]):
        (tmp_path / f"{number}.tar.zst").write_bytes(content)
    script = """if True:
        import sys, re
        from dcp_deploy.errors import InputError
        from dcp_deploy.export.integrity import check_bundle
        def peak(): return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
        before, refused = peak(), 0
        for name in sys.argv[1:]:
            try:
                check_bundle(name)
            except InputError:
                refused += 1
        print(refused, before, peak())
    """
    if not Path("/proc/self/status").is_file():
        pytest.skip("the peak of a process's memory is read from /proc")
    names = sorted(map(str, tmp_path.iterdir()))
    output = subprocess.run([sys.executable, "-c", script, *names], capture_output=True, text=True, check=True).stdout
    refused, before, peak = map(int, output.split())
    assert refused == len(BOMBS)
    assert peak - before < 30_000, "kB"
