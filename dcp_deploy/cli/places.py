"""Where a verb writes: places that cannot be, files that the same command reads, and ``-`` for standard output."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from ..errors import UsageError
from ..files import destination
from .options import check_suffix
from .output import Output
from .streams import answer

STDOUT = Path("-")
PLACES = ("out", "worst", "markdown", "plot", "html")  # flags that name a result
CACHES = ("tensorboard", "timing_cache", "config")  # places that a verb may also write
ENDINGS = {"worst": (".png",), "markdown": (".md",), "html": (".html",)}
OUT_ENDINGS = {
    **dict.fromkeys(("score", "prune", "distill", "directions"), (".safetensors",)),
    **dict.fromkeys(("verify", "bench", "bench compare", "compare", "eval"), (".json",)),
    "export": (".onnx",),
    "engine": (".engine",),
}
"""Endings of --out; those of ``convert`` and ``sample`` depend on other flags, and they check them."""
WRITE_FOLDERS = ("build", "sweep", "bundle", "doctor", "project")  # verbs whose --out is a folder
_PIPED = {
    **dict.fromkeys(
        (("verify", "out"), ("bench", "out"), ("bench compare", "out"), ("compare", "out"), ("eval", "out")), ".json"
    ),
    **dict.fromkeys((("verify", "worst"), ("bench", "plot"), ("sample", "out")), ".png"),
    ("bench", "markdown"): ".md",
    ("compare", "html"): ".html",
    ("export", "out"): ".onnx",
}
"""The flags that take ``-``, by verb, and the ending of what they write then."""


def inputs_of(context: typer.Context, flags: Mapping[str, Any]) -> list[Path]:
    """Return the files and folders that a verb reads, by its flags: every path that is not the place of a result."""
    found: list[Path] = []
    for parameter in context.command.params:
        name, value = str(parameter.name), flags.get(str(parameter.name))
        if name in (*PLACES, *CACHES) or value is None:
            continue
        values = value if isinstance(value, list | tuple) else [value]
        either = parameter.param_type_name == "argument"  # verify takes files and addresses of servers
        found += [Path(one) for one in values if isinstance(one, Path) or (either and isinstance(one, str))]
    return [path for path in found if os.access(path, os.F_OK)]


def check_places(output: Output, flags: Mapping[str, Any]) -> None:
    """Raise UsageError before the work for a result that could not be written, or not without a loss."""
    taken: dict[Path, str] = {}
    for flag in PLACES:
        if flags.get(flag) is None:
            continue
        place = Path(flags[flag])
        folder = output.verb in WRITE_FOLDERS or bool(flags.get("each"))
        endings = OUT_ENDINGS.get(output.verb, ()) if flag == "out" else ENDINGS.get(flag, ())
        check_place(f"--{flag}", place, folder=folder, packed=output.verb == "bundle")
        if endings:
            check_suffix(place, *endings, flag=flag)
        if (other := taken.setdefault(Path(os.path.realpath(place)), flag)) != flag:
            raise UsageError(f"--{other} and --{flag} both name {place}", "Give two names.")
        config = output.config
        if config is not None and place.exists() and config.samefile(place):
            raise UsageError(f"--{flag} {place} is the file of --config", "Give another name for the result.")
        if flag == "out" and not folder:
            check_place("the settings of --out:", output.settings_of(place))


def check_place(flag: str, place: str | Path, *, folder: bool = False, packed: bool = False) -> None:
    """Raise UsageError before the work if its result, a file or a folder (or one ``packed``), could not be written."""
    path = Path(place)
    if path == STDOUT:
        raise UsageError(f"{flag} - : this verb does not write to standard output", "Give the name of a file.")
    above = next(parent for parent in path.absolute().parents if parent.exists())
    if not above.is_dir():
        raise UsageError(f"{flag} {path}: {above} is a file, not a folder", "Give another place.")
    if folder and path.is_file() and not packed:
        raise UsageError(f"{flag} {path} is a file", "Give a folder; it need not exist yet.")
    if not folder and path.is_dir():
        raise UsageError(f"{flag} {path} is a folder", f"Name a file in it: {path / 'NAME'}.")
    if not path.is_dir():
        try:
            destination(path)
        except UsageError as error:
            raise UsageError(f"{flag} {error.message}", error.remedy) from error
    written = path if path.is_dir() else above
    if not os.access(written, os.W_OK):
        raise UsageError(f"{flag} {path}: {written} cannot be written to", "Give another place, or change its rights.")


@contextmanager
def piped(output: Output, flags: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the flags with a temporary file in place of ``-``, and copy it to standard output in the end.

    Then standard output holds the file alone: what the verb says otherwise is left out. Raises UsageError for a verb
    or flag that does not take ``-``.
    """
    names = [flag for flag in PLACES if flags.get(flag) is not None and Path(flags[flag]) == STDOUT]
    if not names:
        yield dict(flags)
        return
    ending = _check_piped(output, names, flags)
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / f"output{ending}"
        output.piping = True
        try:
            yield {**flags, names[0]: file}
        finally:  # a gate that fails has written its figures before
            if file.is_file():
                beside = file.with_name(f"{file.name}.data")
                if beside.exists():
                    raise UsageError("the model takes two files, its weights one of them", "Give --out a name.")
                content = file.read_bytes()
                answer(lambda: _write(content))


def _check_piped(output: Output, names: list[str], flags: Mapping[str, Any]) -> str:
    """Return the ending of what goes to standard output."""
    flag = names[0]
    ending = _PIPED.get((output.verb, flag))
    if ending is None or flags.get("each"):
        what = "a folder" if output.verb in WRITE_FOLDERS or flags.get("each") else "a file with others beside it"
        raise UsageError(f"--{flag} - : {output.verb} writes {what}, not to standard output", "Give it a name.")
    if len(names) > 1 or output.as_json:
        other = f"--{names[1]} -" if len(names) > 1 else "--json"
        raise UsageError(f"--{flag} - and {other} both write to standard output", "Leave one of them out.")
    if ending not in (".json", ".md", ".html") and sys.stdout.isatty():
        raise UsageError(f"--{flag} - would write {ending} data to the terminal", "Send it to a file or a program.")
    return ".gif" if flags.get("interpolate") is not None else ending


def _write(content: bytes) -> None:
    sys.stdout.flush()
    sys.stdout.buffer.write(content)
    sys.stdout.buffer.flush()
