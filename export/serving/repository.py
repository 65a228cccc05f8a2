"""The model repository as Triton gets it: links to a bundle's files, with sizes that fit the machine that serves."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MODELS, PICTURES = "models", "pictures"


@dataclass(frozen=True)
class Size:
    """How a model runs on a CPU."""

    instances: int
    threads: int
    """Threads of each instance."""


def size_for(cores: int, sizing: Mapping[str, Any]) -> Size:
    """Return the size for ``cores``. ``sizing`` is the manifest's, whose measured threads stay if there are cores."""
    best = sizing["best"]
    if sizing["cores"] == cores:
        return Size(int(best["instances"]), int(best["threads"]))
    threads = min(int(best["threads"]), cores)
    return Size(max(1, cores // threads), threads)


def link_repository(bundle: Path, folder: Path, names: tuple[str, ...], size: Size) -> None:
    """Link the files of ``names``, folders of a bundle, into ``folder``; configurations are copied with their size.

    Python writes __pycache__ beside a model.py. There that is a link, so the bundle itself stays unchanged.
    """
    for name in names:
        for path in (bundle / name).rglob("*"):
            if not path.is_file():
                continue
            place = folder / path.relative_to(bundle)
            place.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".pbtxt" and name == MODELS:
                place.write_text(resized(path.read_text(encoding="utf-8"), size), encoding="utf-8")
            else:
                place.symlink_to(path)


def resized(config: str, size: Size) -> str:
    """Return a configuration of :func:`~..bundle.triton.config_pbtxt` with other numbers of instances and threads.

    The ONNX Runtime backend gets the number of its threads, too; by default it takes one for each core of the machine,
    allowed or not.
    """
    if 'backend: "onnxruntime"' in config:
        threads = size.instances * size.threads
        return f'{config}parameters {{ key: "intra_op_thread_count" value {{ string_value: "{threads}" }} }}\n'
    config = re.sub(r"(instance_group \{\n  count: )\d+(\n  kind: KIND_CPU\n)", rf"\g<1>{size.instances}\2", config)
    return re.sub(r'(key: "threads"\n  value \{\n    string_value: ")\d+(")', rf"\g<1>{size.threads}\2", config)
