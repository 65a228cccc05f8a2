"""How a function becomes a verb: the flags that every verb has, and an exit code for every way it can end."""

from __future__ import annotations

import errno
import functools
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from typer.core import TyperGroup

from ..config import read_toml
from ..errors import DcpDeployError, MissingCapabilityError, UsageError, choose
from ..teachers.hub import fetch_from_hub, is_hub, parse_address
from .options import check_suffix, config_keys, option, setting_parameters
from .output import Output

INTERRUPTED = 130
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
ENDINGS = {"worst": (".png",), "markdown": (".md",)}
OUT_ENDINGS = {
    **dict.fromkeys(("score", "prune", "distill", "directions"), (".safetensors",)),
    **dict.fromkeys(("verify", "bench", "bench compare", "eval"), (".json",)),
    "export": (".onnx",),
    "engine": (".engine",),
}
"""Endings of --out; those of ``convert`` and ``sample`` depend on other flags, and they check them."""
WRITE_FOLDERS = ("build", "bundle", "doctor", "project")  # verbs whose --out is a folder

Command = Callable[..., None]


def name_of(function: Command) -> str:
    """Return a verb's name: the function's, in two words for ``a_b``. ``eval`` is a name that Python needs itself."""
    return {"evaluate": "eval"}.get(function.__name__, function.__name__.replace("_", " "))


def verb(*settings: str) -> Callable[[Command], Command]:
    """Make a function a verb: ``function(output, **flags)``.

    The flags are the function's parameters, those of the fields ``settings`` of BuildConfig (they arrive in its
    ``**settings``), and the ones of every verb. Every way it can end becomes an exit code and one message on stderr.
    """

    def decorate(function: Command) -> Command:
        def run(
            context: typer.Context,
            config: ConfigFile = None,
            as_json: Json = False,
            quiet: Quiet = False,
            debug: Debug = False,
            **flags: Any,
        ) -> None:
            del config, debug  # their callbacks have done the work
            output = Output(name_of(function), context, as_json=as_json, quiet=quiet)
            with _exit_codes(output):
                for flag in ("out", "worst", "markdown", "plot"):
                    if (place := flags.get(flag)) is not None:
                        folder = output.verb in WRITE_FOLDERS or bool(flags.get("each"))
                        endings = OUT_ENDINGS.get(output.verb, ()) if flag == "out" else ENDINGS.get(flag, ())
                        check_place(f"--{flag}", place, folder=folder, packed=output.verb == "bundle")
                        if endings:
                            check_suffix(Path(place), *endings, flag=flag)
                function(output, **_fetched(output, flags))

        context, *common, _ = signature(run, eval_str=True).parameters.values()
        _, *own = signature(function, eval_str=True).parameters.values()
        own = [parameter for parameter in own if parameter.kind is not Parameter.VAR_KEYWORD]
        flags = (context, *setting_parameters(settings), *own, *common)
        functools.update_wrapper(run, function)
        run.__signature__ = Signature(  # type: ignore[attr-defined]  # what typer reads
            [parameter.replace(kind=Parameter.KEYWORD_ONLY) for parameter in flags]
        )
        return run

    return decorate


def _fetched(output: Output, flags: dict[str, Any]) -> dict[str, Any]:
    """Replace places on the Hub by the paths of the files there; build's teacher is left to the pipeline."""
    left = {"build": ("teacher", "out"), "push": ("repository",)}.get(output.verb, ("out",))

    def local(value: Any) -> Any:
        if isinstance(value, list):
            return [local(one) for one in value]
        if not isinstance(value, str | Path) or not is_hub(value):
            return value
        path, _ = fetch_from_hub(parse_address(value), say=output.message)
        return type(value)(path)

    return {name: value if name in left else local(value) for name, value in flags.items()}


@contextmanager
def _exit_codes(output: Output) -> Iterator[None]:
    try:
        yield
    except UsageError as error:
        _end(error.exit_code, error.message, error.remedy or f"See dcp-deploy {output.verb} --help.", output)
    except DcpDeployError as error:
        _end(error.exit_code, error.message, error.remedy, output)
    except KeyboardInterrupt as stop:
        _end(INTERRUPTED, str(stop) or "interrupted", _resume_hint(output.verb), output)
    except BrokenPipeError:  # the reader closed the pipe, so nothing may be written at exit either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(1) from None
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:
        if is_disk_full(error):
            remedy = "Free some space, then run the same command again."
            _end(MissingCapabilityError.exit_code, f"no space left on the disk: {error}", remedy, output)
        remedy = "This is a bug. Run it again with --debug and report what it shows."
        _end(1, f"unexpected error: {type(error).__name__}: {error}", remedy, output)


def check_place(flag: str, place: str | Path, *, folder: bool = False, packed: bool = False) -> None:
    """Raise UsageError before the work if its result, a file or a folder (or one ``packed``), could not be written."""
    path = Path(place)
    above = next(parent for parent in path.absolute().parents if parent.exists())
    if not above.is_dir():
        raise UsageError(f"{flag} {path}: {above} is a file, not a folder", "Give another place.")
    if folder and path.is_file() and not packed:
        raise UsageError(f"{flag} {path} is a file", "Give a folder; it need not exist yet.")
    if not folder and path.is_dir():
        raise UsageError(f"{flag} {path} is a folder", f"Name a file in it: {path / 'NAME'}.")
    written = path if path.is_dir() else above
    if not os.access(written, os.W_OK):
        raise UsageError(f"{flag} {path}: {written} cannot be written to", "Give another place, or change its rights.")


def is_disk_full(error: BaseException | None) -> bool:
    """Return whether an error or its cause is a full disk, also where a library kept only the words."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            return True
        if "No space left on device" in str(error) or "Disk quota exceeded" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


class Verbs(TyperGroup):
    """All verbs. A verb may have two words: ``bench compare`` beside ``bench MODEL``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read ``help VERB`` as ``VERB --help``."""
        return super().parse_args(ctx, [*args[1:], "--help"] if args[:1] == ["help"] else args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the verb that the command line begins with, and the words after it."""
        pair = " ".join(args[:2])
        return super().resolve_command(ctx, [pair, *args[2:]] if pair in self.commands else args)

    def invoke(self, ctx: Any) -> Any:
        """Run the verb. With --json, an error of the parser is also printed as JSON before typer reports it."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            if hasattr(error, "format_message") and "--json" in sys.argv:
                called = (" ".join(sys.argv[1:3]), *sys.argv[1:2])
                known = [name for name in called if name in self.commands][:1]
                remedy = f"See {' '.join(['dcp-deploy', *known, '--help'])}."
                _print_error(getattr(error, "exit_code", UsageError.exit_code), error.format_message(), remedy)
            raise


def _end(code: int, message: str, remedy: str, output: Output) -> NoReturn:
    if os.environ.get("DCP_DEPLOY_DEBUG", "") not in ("", "0"):
        traceback.print_exc()
    console = Console(stderr=True, highlight=False)
    console.print(f"error: {message}", markup=False, soft_wrap=True)
    if remedy:
        console.print(remedy, markup=False, soft_wrap=True)
    if output.as_json and not output.answered:  # a failed gate has printed its figures: one document is enough
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
    return "Nothing was written. Run the same command again."


# ---- flags of every verb ----


def _load_config(context: typer.Context, path: Path | None) -> Path | None:
    """Read --config before the other flags and make its values their defaults."""
    if path is None:
        return None
    known = config_keys(context.command)
    with _exit_codes(Output(context.info_name or "", as_json="--json" in sys.argv)):
        values = {key.replace("-", "_"): value for key, value in read_toml(path).items()}
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise UsageError(
                f"{path}: {context.info_name} has no setting {unknown[0]!r}", choose(unknown[0], sorted(known))
            )
    context.default_map = {**(context.default_map or {}), **{known[key]: value for key, value in values.items()}}
    return path


def _set_debug(on: bool) -> None:
    if on:
        os.environ["DCP_DEPLOY_DEBUG"] = "1"


_PANEL = "Every verb"
ConfigFile = Annotated[
    Path | None,
    option(
        "TOML file with the flags' names as keys. Flags on the command line win.",
        "--config",
        panel=_PANEL,
        metavar="FILE",
        is_eager=True,
        callback=_load_config,
    ),
]
Json = Annotated[bool, option("Print one JSON document on stdout and nothing else.", "--json", panel=_PANEL)]
Quiet = Annotated[bool, option("Print results and errors only.", "--quiet", "-q", panel=_PANEL)]
Debug = Annotated[bool, option("Show the traceback of an error.", "--debug", panel=_PANEL, callback=_set_debug)]
