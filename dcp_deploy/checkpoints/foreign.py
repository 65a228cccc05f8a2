"""Content that is not a checkpoint, recognised so that the message can say what it is and what to do."""

from __future__ import annotations

import re

_READ = (
    "Pass a .safetensors of dcp-deploy, a .pkl of NVIDIA's repositories (PyTorch or TensorFlow), or a .pt, .pth or "
    ".ckpt with a StyleGAN2 of rosinality's or NVIDIA's names."
)
_UNPACK = "Unpack it, and pass the file inside."
# Starts of files, with what they are and the remedy.
_STARTS: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs", "a pointer of Git LFS", "Run `git lfs pull` in the repository it comes from."),
    (b"\x89PNG", "a PNG image", _READ),
    (b"\xff\xd8\xff", "a JPEG image", _READ),
    (b"GIF8", "a GIF image", _READ),
    (b"RIFF", "a WebP image or a sound", _READ),
    (b"\x1f\x8b", "a gzip archive", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "a zstd archive, perhaps a bundle", _UNPACK),
    (b"BZh", "a bzip2 archive", _UNPACK),
    (b"\xfd7zXZ\x00", "an xz archive", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (b"Rar!", "a RAR archive", _UNPACK),
    (b"PK\x05\x06", "an empty zip archive", _READ),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, of Keras for example", "HDF5 is not read; convert it to a torch state dict."),
    (b"%PDF", "a PDF document", _READ),
    (b"\x93NUMPY", "a single numpy array", "An array of a code or direction goes to `sample --codes` or `directions`."),
    *((kind, "a TensorRT engine", "Give the checkpoint it was built from.") for kind in (b"ftrt", b"ptrt", b"vtrt")),
)  # fmt: skip


def described(data: memoryview, source: str) -> tuple[str, str]:
    """Return a message and a remedy for a file that is not a checkpoint, by the start of its content."""
    found = content_of(data)
    if found is None:
        return f"{source}: not a checkpoint of a known format", _READ
    return f"{source}: {found[0]}, not a checkpoint", found[1]


def content_of(data: memoryview) -> tuple[str, str] | None:
    """Return what a file is instead of a checkpoint, in words, and a remedy; None for content that is not known."""
    head = bytes(data[:4096])
    if bytes(data[257:262]) == b"ustar":
        return "a tar archive", _UNPACK
    for start, what, remedy in _STARTS:
        if head.startswith(start):
            return what, remedy
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html")) or (text.startswith(b"<") and b"<html" in text):
        return "a web page", "It was saved instead of the file that it offers. Fetch that."
    if text.startswith(b"<"):
        code = text.partition(b"<code>")[2].partition(b"</code>")[0]
        named = f" ({code.decode('ascii', 'replace')[:40]})" if code and code.isalnum() else ""
        return f"an XML answer of a server{named}", "It was saved instead of the file. Fetch the file again."
    if text.startswith(b"{") or (text.startswith(b"[") and text[1:].lstrip()[:1] in b'{["-0123456789]'):
        if re.match(rb'\{\s*"schema":\s*\d', text):
            return "a JSON document, as dcp-deploy writes them", "Give the model that it describes."
        return "a JSON text", "If it was downloaded, it is the answer of a server: fetch the file again."
    if is_onnx(data):
        return "an exported ONNX file", "Give the checkpoint that it was exported from."
    return None


def is_onnx(data: memoryview) -> bool:
    """Return whether the content starts like an ONNX model: its IR version, and then a text or a graph."""
    head = bytes(data[:64])
    return len(head) > 4 and head[0] == 0x08 and 3 <= head[1] <= 20 and head[2] in (0x12, 0x1A, 0x2A, 0x32, 0x3A, 0x42)
