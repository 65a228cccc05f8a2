"""What to run after a verb has written its result."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..files import is_run_directory

# By verb, with the verb's own flags by name; ``path`` is what it wrote.
_NEXT = {
    "build": "bundle {path} --out {name}-bundle",
    "sweep": "bundle {path} --out {name}-bundle",
    "convert": "score {path} --out scores.safetensors",
    "score": "prune {teacher} --scores {path} --out pruned.safetensors",
    "prune": "distill {path} --teacher {teacher} --out student.safetensors",
    "distill": "export {path} --out {name}.onnx",
    "export": "verify {model} {path}",
    "engine": "bench {path}",
    "bundle": "serve {path}",
}
_READS_NETWORK = ("score", "prune", "export")  # their next verb reads the same file, so it needs --network too


def next_command(verb: str, flags: Mapping[str, Any], path: Path) -> str:
    """Return the command that usually follows; empty where none does, or where other steps come first."""
    if verb not in _NEXT or flags.get("shard") or flags.get("to", "native") != "native":
        return ""
    if verb == "sweep" and not is_run_directory(path):  # no student is recommended
        return ""
    words = _NEXT[verb]
    if verb == "bundle" and not path.is_dir():  # a packed one
        words = "bundle verify {path}"
    values = {name: value for name, value in flags.items() if isinstance(value, str | Path)}
    quoted = {name: shlex.quote(str(value)) for name, value in {**values, "path": path, "name": path.stem}.items()}
    network = f" --network {quoted['network']}" if verb in _READS_NETWORK and "network" in quoted else ""
    return f"dcp-deploy {words.format(**quoted)}{network}"
