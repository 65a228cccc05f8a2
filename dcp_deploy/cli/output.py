"""What a verb prints and how it ends: results on stdout, the rest on stderr, errors as exit codes."""

from __future__ import annotations

import errno
import functools
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn, ParamSpec

import typer
from rich.console import Console
from typer.core import TyperGroup

from ..config import read_toml, to_toml
from ..errors import DcpDeployError, MissingCapabilityError, UsageError
from ..files import atomic_path
from ..progress import Progress, Reporter, duration
from . import options as flags

INTERRUPTED = 130
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
PLAIN_SECONDS = 15.0  # between two lines of progress where there is no terminal
WRITE_FOLDERS = ("build", "bundle", "doctor", "project")  # whose --out is one
WIDE = 160  # columns of a table that no terminal cuts

P = ParamSpec("P")


@dataclass
class _Call:
    """The verb that is running, and whether its answer is on stdout already."""

    verb: str = ""
    answered: bool = False


_CALL: ContextVar[_Call] = ContextVar("_CALL")


class Output(Reporter):
    """Where a verb's words go, by its --json and --quiet."""

    def __init__(self, *, as_json: bool = False, quiet: bool = False) -> None:
        self.as_json, self.quiet = as_json, quiet
        self.stdout = Console(highlight=False, width=None if sys.stdout.isatty() else WIDE)
        self.stderr = Console(stderr=True, highlight=False)

    def result(self, document: dict[str, Any], *shown: Any) -> None:
        """The verb's answer: ``document`` for machines, ``shown`` (text or rich tables) for people.

        A document is printed only as its published schema has it: :func:`~.schemas.checked`.
        """
        if self.as_json:
            from ..schemas import checked

            call = _CALL.get()
            print(checked(call.verb, document), flush=True)  # who reads from serve's pipe must not wait for its end
            call.answered = True
            return
        for part in shown:
            self.stdout.print(part, markup=False, soft_wrap=isinstance(part, str))

    def message(self, text: str) -> None:
        """One line on stderr; nothing with --quiet."""
        if not self.quiet:
            self.stderr.print(text, markup=False, soft_wrap=True)

    @contextmanager
    def task(self, title: str) -> Iterator[Progress]:
        """A bar with the time left on a terminal, a line now and then elsewhere, nothing with --quiet."""
        if self.quiet:
            yield lambda done, total: None
        elif self.stderr.is_terminal:
            with self._bar(title) as progress:
                yield progress
        else:
            yield _PlainProgress(title, self.message)

    @contextmanager
    def _bar(self, title: str) -> Iterator[Progress]:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                   TextColumn("left"), TimeRemainingColumn())  # fmt: skip
        with Bars(*columns, console=self.stderr, transient=True) as bars:
            task = bars.add_task(title, total=None)
            yield lambda done, total: bars.update(task, completed=done, total=total)


class _PlainProgress:
    """``title: 120 of 600, about 4 min left``, not more often than every fifteen seconds."""

    def __init__(self, title: str, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self.title, self.say, self.clock = title, say, clock
        self.begin = self.last = clock()
        self.first: int | None = None  # a resumed task does not begin at zero
        self.total = 0

    def __call__(self, done: int, total: int) -> None:
        now = self.clock()
        if self.first is None or total != self.total:  # another total: a task within this one, or after that
            self.first, self.begin, self.total = done, now, total
        if now - self.last < PLAIN_SECONDS or done >= total:
            return
        self.last = now
        moved = done - self.first
        left = f", about {duration((now - self.begin) / moved * (total - done))} left" if moved > 0 else ""
        self.say(f"{self.title}: {done} of {total}{left}")


# ---- errors ----


def name_of(function: Callable[..., None]) -> str:
    """What a verb is called: as its function, two words for ``a_b``, but for one whose name Python needs."""
    return {"evaluate": "eval"}.get(function.__name__, function.__name__.replace("_", " "))


def verb(function: Callable[P, None]) -> Callable[P, None]:
    """Turn every way a verb can end into its exit code and one clear message on stderr."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        as_json = bool(kwargs.get("as_json"))
        name = name_of(function)
        _CALL.set(_Call(name))
        try:
            for flag in ("out", "worst", "markdown", "plot"):
                _check_place(name, f"--{flag}", kwargs.get(flag))
            function(*args, **kwargs)
        except UsageError as error:
            _end(error.exit_code, error.message, error.remedy or f"See dcp-deploy {name} --help.", as_json)
        except DcpDeployError as error:
            _end(error.exit_code, error.message, error.remedy, as_json)
        except KeyboardInterrupt as stop:
            _end(INTERRUPTED, str(stop) or "interrupted", _resume_hint(name), as_json)
        except BrokenPipeError:  # the reader of our output had enough; nothing may be written at exit either
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(1) from None
        except (typer.Exit, typer.Abort):
            raise
        except Exception as error:
            if is_disk_full(error):
                remedy = "Free some space, then run the same command again."
                _end(MissingCapabilityError.exit_code, f"no space left on the disk: {error}", remedy, as_json)
            remedy = "This is a bug: run again with --debug and report what it shows."
            _end(1, f"unexpected error: {type(error).__name__}: {error}", remedy, as_json)

    return run


def _check_place(verb: str, flag: str, place: Any) -> None:
    """Find out before the work, not after it, that its result could not be written."""
    if place is None:
        return
    path = Path(place)
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not above.is_dir():
        raise UsageError(f"{flag} {path}: {above} is a file, not a folder", "Give another place.")
    if verb in WRITE_FOLDERS and path.is_file() and verb != "bundle":  # a packed bundle is a file
        raise UsageError(f"{flag} {path} is a file", "Give a folder, which need not be there yet.")
    if verb not in WRITE_FOLDERS and path.is_dir():
        raise UsageError(f"{flag} {path} is a folder", f"Name a file in it: {path / 'NAME'}.")
    written = path if path.is_dir() else above
    if not os.access(written, os.W_OK):
        raise UsageError(f"{flag} {path}: {written} cannot be written to", "Give another place, or ask for the right.")


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, is a full disk, also where a library turned the number into words."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            return True
        if "No space left on device" in str(error) or "Disk quota exceeded" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


class Verbs(TyperGroup):
    """All verbs, also those of two words: ``bench compare`` is one beside ``bench MODEL``.

    A command line that cannot be read is told in JSON too, where that was asked for.
    """

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The verb that the command line begins with, and what follows it."""
        pair = " ".join(args[:2])
        return super().resolve_command(ctx, [pair, *args[2:]] if pair in self.commands else args)

    def invoke(self, ctx: Any) -> Any:
        """Run the verb; what the parser finds wrong goes on to typer, which shows it on stderr and exits with 2."""
        _CALL.set(_Call())
        try:
            return super().invoke(ctx)
        except Exception as error:
            if hasattr(error, "format_message") and "--json" in sys.argv:
                called = (" ".join(sys.argv[1:3]), *sys.argv[1:2])
                known = [name for name in called if name in self.commands][:1]
                remedy = f"See {' '.join(['dcp-deploy', *known, '--help'])}."
                _print_error(getattr(error, "exit_code", UsageError.exit_code), error.format_message(), remedy)
            raise


def _end(code: int, message: str, remedy: str, as_json: bool) -> NoReturn:
    if os.environ.get("DCP_DEPLOY_DEBUG", "") not in ("", "0"):
        traceback.print_exc()
    console = Console(stderr=True, highlight=False)
    console.print(f"error: {message}", markup=False, soft_wrap=True)
    if remedy:
        console.print(remedy, markup=False, soft_wrap=True)
    call = _CALL.get(None)
    if as_json and not (call and call.answered):  # a gate that failed has told its figures: one document is enough
        _print_error(code, message, remedy)
    raise typer.Exit(code)


def _print_error(code: int, message: str, remedy: str) -> None:
    from ..schemas.base import VERSION, Error, Failure

    error = Error(schema=VERSION, error=Failure(exit_code=code, message=message, remedy=remedy))
    print(error.model_dump_json(indent=2, by_alias=True))


def _resume_hint(verb: str) -> str:
    if verb == "build" and "--force" in sys.argv:
        return "Run the same command again without --force to resume."
    if verb in ("build", "distill", "score"):
        return "Run the same command again to resume."
    return "Nothing was written; run the same command again."


# ---- flags that every verb has ----


def _load_config(context: typer.Context, path: Path | None) -> Path | None:
    """Read --config before the other flags and make its values their defaults."""
    if path is None:
        return None
    known = {str(parameter.name) for parameter in context.command.params if parameter.name != "config"}
    try:
        values = read_toml(path)
        unknown = sorted(set(values) - known)
        if unknown:
            raise UsageError(f"{path}: {context.info_name} has no setting {unknown[0]!r}", f"Known: {sorted(known)}.")
    except DcpDeployError as error:
        _end(error.exit_code, error.message, error.remedy, "--json" in sys.argv)
    context.default_map = {**(context.default_map or {}), **values}
    return path


def _set_debug(on: bool) -> None:
    if on:
        os.environ["DCP_DEPLOY_DEBUG"] = "1"


Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, and nothing else there.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no messages; results and errors only.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.", callback=_set_debug)]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        is_eager=True,
        callback=_load_config,
        help="TOML file with the flags' names as keys; flags on the command line win.",
    ),
]
Seed = Annotated[int, typer.Option("--seed", help="Of all random draws.")]
Device = Annotated[str, flags.offered("auto, cpu, cuda, cuda:1, ...", flags.devices)]

NOT_SETTINGS = ("config", "debug", "as_json", "quiet")


def write_settings(context: typer.Context, beside: Path) -> Path:
    """Write a verb's resolved flags as ``<result>.toml``, which its own --config reads back."""
    path = beside.with_name(f"{beside.name}.toml")
    values = {name: value for name, value in context.params.items() if name not in NOT_SETTINGS}
    with atomic_path(path) as temporary:
        temporary.write_text(f"# dcp-deploy {context.info_name}\n{to_toml(values)}", encoding="utf-8")
    return path
