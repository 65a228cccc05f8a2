"""Archives written byte by byte, as a forger would."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from random import Random

import zstandard

from ..bundle_facts import FACTS

BLOCK, RECORD = 512, 10240
MANIFEST, SEAL = "manifest.json", "manifest.sha256"
FIELDS = {
    "name": (0, 100), "mode": (100, 8), "uid": (108, 8), "gid": (116, 8), "size": (124, 12), "mtime": (136, 12),
    "type": (156, 1), "link": (157, 100), "magic": (257, 8), "uname": (265, 32), "gname": (297, 32),
    "major": (329, 8), "minor": (337, 8), "prefix": (345, 155),
}  # fmt: skip
TYPES = b"\x001234567ADEgIKLMNSVXx~"


def checked(block: bytes) -> bytes:
    """A header block with a right checksum."""
    total = sum(block[:148]) + 8 * 32 + sum(block[156:512])
    return block[:148] + b"%06o\0 " % total + block[156:]


def header(name: str, size: int, /, **fields: bytes) -> bytes:
    """The header of a plain file as ustar has it, except for these fields."""
    block = bytearray(BLOCK)
    encoded = name.encode()
    cut = encoded.find(b"/", len(encoded) - 101) if len(encoded) > 100 else -1
    plain = {
        "name": encoded[cut + 1 :], "mode": b"0000644\0", "uid": b"0000000\0", "gid": b"0000000\0",
        "size": b"%011o\0" % size, "mtime": b"00000000000\0", "type": b"0", "magic": b"ustar\x0000",
        "prefix": encoded[: max(cut, 0)],
    }  # fmt: skip
    for field, value in {**plain, **fields}.items():
        start, length = FIELDS[field]
        block[start : start + length] = value[:length].ljust(length, b"\0")
    return checked(bytes(block))


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % BLOCK)


def entry(name: str, content: bytes = b"", /, **fields: bytes) -> bytes:
    return header(name, len(content), **fields) + padded(content)


def ended(entries: Iterable[bytes]) -> bytes:
    """A whole tar: entries, two blocks of zeros, and zeros to the end of the record."""
    tar = b"".join(entries) + bytes(2 * BLOCK)
    return tar + bytes(-len(tar) % RECORD)


def sealed(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The files of a bundle with their manifest and its seal, in the order of an archive."""
    facts = {name: {"bytes": len(c), "sha256": hashlib.sha256(c).hexdigest()} for name, c in files.items()}
    manifest = json.dumps({"schema": 1, "kind": "dcp-deploy bundle", **FACTS, "files": facts}).encode()
    seal = f"{hashlib.sha256(manifest).hexdigest()}  {MANIFEST}\n".encode()
    return {MANIFEST: manifest, SEAL: seal, **dict(sorted(files.items()))}


def entries_of(files: Mapping[str, bytes], top: str = "small") -> list[bytes]:
    return [entry(f"{top}/{name}", content) for name, content in sealed(files).items()]


# ---- random bundles and changes to them ----


def random_files(random: Random) -> dict[str, bytes]:
    """Names of one to many letters, some in folders, with content of nothing to three blocks."""
    names = {
        "/".join(
            random.choice("abc") + random.choice("xyzäö.- ") * random.choice((0, 1, 5, 40)) + "e" for _ in range(depth)
        )
        for depth in random.choices((1, 2, 3), k=random.randint(1, 5))
    }
    whole = {name for name in names if not any(other.startswith(f"{name}/") for other in names)}
    fits = {
        name
        for name in whole
        if all(len(part.encode()) < 95 for part in (name.rpartition("/")[0], name.rpartition("/")[2]))
    }
    sizes = (0, 1, 511, 512, 513, 1500)
    return {name: random.randbytes(random.choice(sizes)) for name in sorted(fits or {"a"})}


def changed(entries: list[bytes], random: Random) -> bytes:
    """A tar of these entries with one change."""
    which = random.randrange(len(entries))
    return random.choice(CHANGES)(list(entries), which, random)


def _bit(entries: list[bytes], which: int, random: Random) -> bytes:
    tar = bytearray(ended(entries))
    tar[random.randrange(len(tar))] ^= 1 << random.randrange(8)
    return bytes(tar)


def _header_byte(entries: list[bytes], which: int, random: Random) -> bytes:
    block = bytearray(entries[which])
    block[random.randrange(BLOCK)] = random.choice((0, 32, 47, 48, 122, 128, 255))
    entries[which] = (checked(bytes(block[:BLOCK])) if random.random() < 0.7 else bytes(block[:BLOCK])) + block[BLOCK:]
    return ended(entries)


def _field(entries: list[bytes], which: int, random: Random) -> bytes:
    start, length = FIELDS[random.choice(list(FIELDS))]
    values = (
        b"zzzzzzz",
        b"",
        b" " * length,
        b"7" * length,
        b"\x80" + bytes(length - 1),
        b"../x",
        b"\xff" * length,
        b"x\0y",
    )
    block = bytearray(entries[which])
    block[start : start + length] = random.choice(values)[:length].ljust(length, random.choice((b"\0", b" ")))
    entries[which] = checked(bytes(block[:BLOCK])) + block[BLOCK:]
    return ended(entries)


def _size(entries: list[bytes], which: int, random: Random) -> bytes:
    content = entries[which][BLOCK:]
    size = int(entries[which][124:135], 8)
    forms = (
        b"%o" % size, b"%12o" % size, b"%011o " % size, b"%012o" % size, b"\x80" + size.to_bytes(11, "big"),
        b"%011o\0" % (size + random.choice((-1, 1, 512, 1 << 33))), b"-0000000001\0", b"0o%09o\0" % size,
    )  # fmt: skip
    block = bytearray(entries[which][:BLOCK])
    block[124:136] = random.choice(forms)[:12].ljust(12, b"\0")
    entries[which] = checked(bytes(block)) + content
    return ended(entries)


def _foreign_entry(entries: list[bytes], which: int, random: Random) -> bytes:
    """Insert an entry of any type, or what a long name or PAX header needs."""
    name = random.choice(("small/x", "././@LongLink", "small/manifest.json", "../x", "small/a", "small"))
    records = (
        b"30 path=small/other/name.txt00\n",
        b"20 GNU.sparse.size=9\n",
        b"small/long\0",
        b"",
        bytes(600),
        b"12 size=999\n",
    )
    fields = {"type": bytes([random.choice(TYPES)]), "link": random.choice((b"", b"/etc/passwd", b"small/a"))}
    entries.insert(which, entry(name, random.choice(records), **fields))
    return ended(entries)


def _blocks(entries: list[bytes], which: int, random: Random) -> bytes:
    """Insert blocks at a boundary: zeros, noise, headers with a wrong checksum, a second archive."""
    broken = header("small/x", 0, major=b"zzzzzzz")
    blocks = (
        bytes(BLOCK),
        bytes(2 * BLOCK),
        random.randbytes(BLOCK),
        broken,
        broken[:148] + b"0000000\0" + broken[156:],
        ended(entries),
    )
    entries.insert(random.choice((which, len(entries))), random.choice(blocks))
    return ended(entries)


def _order(entries: list[bytes], which: int, random: Random) -> bytes:
    other = random.randrange(len(entries))
    if random.random() < 0.4:
        entries[which], entries[other] = entries[other], entries[which]
    elif random.random() < 0.5:
        entries.insert(other, entries[which])
    else:
        del entries[which]
    return ended(entries)


def _end(entries: list[bytes], which: int, random: Random) -> bytes:
    tar = b"".join(entries)
    ends = (b"", bytes(BLOCK), bytes(2 * BLOCK), bytes(RECORD), bytes(1023))
    behind = (b"", b"x", entries[which], ended(entries[which:]), bytes(100_000), header("small/a", 9, major=b"zzzzzzz"))
    whole = ended(entries)
    place = random.randrange(len(tar), len(whole) - 1)
    hidden = (whole[:place] + random.choice(behind[1:4]))[: len(whole)].ljust(len(whole), b"\0")  # in the last record
    return random.choice((tar + random.choice(ends) + random.choice(behind), whole + random.choice(behind), hidden))


def _splice(entries: list[bytes], which: int, random: Random) -> bytes:
    """Remove, repeat or replace any bytes."""
    tar = ended(entries)
    start, length = random.randrange(len(tar)), random.choice((1, 7, BLOCK, 3 * BLOCK))
    if random.random() < 0.5:
        start -= start % BLOCK
    piece = tar[start : start + length]
    middle = random.choice((b"", piece * 2, random.randbytes(length), bytes(length)))
    return tar[:start] + middle + tar[start + length :]


CHANGES: tuple[Callable[[list[bytes], int, Random], bytes], ...] = (
    _bit, _header_byte, _field, _size, _foreign_entry, _blocks, _order, _end, _splice,
)  # fmt: skip


def packed(tar: bytes, random: Random) -> bytes:
    """A tar in one zstd frame of any shape."""
    options = {"write_checksum": random.random() < 0.5, "write_content_size": random.random() < 0.5}
    level = random.choice((-5, 1, 3, 10, 19))
    if random.random() < 0.3:
        return stored(tar, random.choice((1, 100, 5000, 1 << 17)))
    return zstandard.ZstdCompressor(level=level, **options).compress(tar)


def stored(tar: bytes, size: int = 1 << 17) -> bytes:
    """A zstd frame of raw blocks, and of repeated bytes where all bytes are equal (RFC 8878)."""
    frame = zstandard.MAGIC_NUMBER.to_bytes(4, "little") + b"\x00\x68"  # no content size, a window of 8 MB
    size = max(size, len(tar) // 250)
    for start in range(0, max(len(tar), 1), size):
        piece = tar[start : start + size]
        repeated = len(set(piece)) == 1
        last = start + size >= len(tar)
        frame += (last | repeated << 1 | len(piece) << 3).to_bytes(3, "little") + (piece[:1] if repeated else piece)
    return frame


def skippable(content: bytes) -> bytes:
    return b"\x50\x2a\x4d\x18" + len(content).to_bytes(4, "little") + content


def changed_frame(tar: bytes, random: Random) -> bytes:
    """A packed tar whose packed bytes have one change."""
    frame = packed(tar, random)
    place = random.randrange(len(frame))
    half = random.randrange(len(tar))
    flipped = frame[:place] + bytes([frame[place] ^ 1 << random.randrange(8)]) + frame[place + 1 :]
    header_flipped = frame[:4] + bytes([random.randrange(256)]) + frame[5:]
    return random.choice((
        flipped, flipped, header_flipped, frame[:place], frame + b"x", frame + skippable(b""), skippable(b"x") + frame,
        frame + frame, packed(tar[:half], random) + packed(tar[half:], random), frame + packed(b"", random),
    ))  # fmt: skip


def random_archive(seed: int) -> bytes:
    """The packed bytes of a random bundle: changed in the tar (1/2), in the zstd frame (1/4) or not at all (1/4)."""
    random = Random(seed)
    entries = entries_of(random_files(random), random.choice(("small", "b", "a b", "ü", "t" * 120)))
    layer = random.random()
    if layer < 0.5:
        return packed(changed(entries, random), random)
    return changed_frame(ended(entries), random) if layer < 0.75 else packed(ended(entries), random)
