"""How a function becomes a verb: the flags that every verb has, and an exit code for every way it can end."""

from __future__ import annotations

import errno
import functools
import json
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from ..config import SIZE_SHARES, read_toml
from ..devices import computing
from ..errors import DcpDeployError, MissingCapabilityError, UsageError, choose
from ..files import encodable, kept
from ..teachers.hub import fetch_from_hub, is_hub, parse_address
from .options import config_keys, flag_of, option, setting_parameters
from .output import Output
from .places import check_places, inputs_of, piped
from .streams import answer, say, visible

INTERRUPTED = 130
LIMITS = (
    (errno.ENOSPC, "no space left on the disk", "Free some space"),
    (errno.EDQUOT, "no space left on the disk", "Free some space"),
    (errno.EFBIG, "a file is larger than this machine allows", "Raise the limit (ulimit -f)"),
)
Command = Callable[..., None]


def name_of(function: Command) -> str:
    """Return a verb's name: the function's, in two words for ``a_b``. ``eval`` is a name that Python needs itself."""
    return {"evaluate": "eval"}.get(function.__name__, function.__name__.replace("_", " "))


def verb(*settings: str, computes: bool = False) -> Callable[[Command], Command]:
    """Make a function a verb: ``function(output, **flags)``.

    The flags are the function's parameters, those of the fields ``settings`` of BuildConfig (they arrive in its
    ``**settings``), and the ones of every verb. A verb that ``computes`` also has --threads, and runs with that number.
    Every way it can end becomes an exit code and one message on stderr.
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
            del debug  # its callback has done the work
            output = Output(name_of(function), context, as_json=as_json, quiet=quiet, config=config)
            with _exit_codes(output), kept(inputs_of(context, flags)), piped(output, flags) as given:
                check_places(output, given)
                with computing(given.pop("threads"), output.message) if computes else nullcontext():
                    function(output, **_fetched(output, given))

        context, *common, _ = signature(run, eval_str=True).parameters.values()
        _, *own = signature(function, eval_str=True).parameters.values()
        own = [parameter for parameter in own if parameter.kind is not Parameter.VAR_KEYWORD]
        shared = (*settings, "threads") if computes else settings
        flags = (context, *setting_parameters(shared), *own, *common)
        functools.update_wrapper(run, function)
        run.__signature__ = Signature(  # type: ignore[attr-defined]  # what typer reads
            [parameter.replace(kind=Parameter.KEYWORD_ONLY) for parameter in flags]
        )
        return run

    return decorate


def _fetched(output: Output, flags: dict[str, Any]) -> dict[str, Any]:
    """Replace places on the Hub by the paths of the files there; the teacher of a build is left to the pipeline."""
    left = {"build": ("teacher", "out"), "sweep": ("teacher", "out"), "push": ("repository",)}.get(
        output.verb, ("out",)
    )

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
    except BrokenPipeError:  # the reader closed the pipe
        raise typer.Exit(1) from None
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:
        if (limit := machine_limit(error)) is not None:
            _end(MissingCapabilityError.exit_code, *limit, output)
        remedy = "This is a bug. Run it again with --debug and report what it shows."
        _end(1, f"unexpected error: {type(error).__name__}: {error}", remedy, output)


def machine_limit(error: BaseException) -> tuple[str, str] | None:
    """Return what this machine refused and what to do, None for an error of ours. The disk counts, memory and rights.

    A library may have kept only the words of the system's error.
    """
    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None and cause not in causes:
        causes.append(cause)
    for one in causes:
        for code, words, remedy in LIMITS:
            if (isinstance(one, OSError) and one.errno == code) or os.strerror(code) in str(one):
                return f"{words}: {error}", f"{remedy}, then run the same command again."
    if isinstance(error, MemoryError):
        return "this machine has too little memory for it", "Free some, or use smaller batches."
    if isinstance(error, OSError):
        return f"the operating system refused it: {error}", "Check the path, its rights and the limits of this machine."
    return None


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
            if isinstance(words := getattr(error, "message", None), str):
                error.message = visible(f"{words}{_sweep_hint(error)}")  # type: ignore[attr-defined]  # click prints it
            if hasattr(error, "format_message") and "--json" in sys.argv:
                called = (" ".join(sys.argv[1:3]), *sys.argv[1:2])
                known = [name for name in called if name in self.commands][:1]
                remedy = f"See {' '.join(['dcp-deploy', *known, '--help'])}."
                _print_error(getattr(error, "exit_code", UsageError.exit_code), error.format_message(), remedy)
            raise


def _sweep_hint(error: Exception) -> str:
    """Return how to give several sizes, if a list of them is what the parser refused; else nothing."""
    name = getattr(getattr(error, "param", None), "name", None)
    if name not in SIZE_SHARES:
        return ""
    configured = (getattr(getattr(error, "ctx", None), "default_map", None) or {}).get(name)
    words = f"{' '.join(sys.argv)} {flag_of(name)} {configured}"  # the command line wins
    given = re.search(rf"{flag_of(name)}[ =]([\d.]+(?:,[\d.]+)+)(?: |$)", words)
    return f". For several students: dcp-deploy sweep {flag_of(name)} {given[1]}." if given else ""


def _end(code: int, message: str, remedy: str, output: Output) -> NoReturn:
    if os.environ.get("DCP_DEPLOY_DEBUG", "") not in ("", "0"):
        say(output.stderr, traceback.format_exc())
    say(output.stderr, f"error: {message}")
    if remedy:
        say(output.stderr, remedy)
    if output.as_json and not output.answered:  # a failed gate has printed its figures: one document is enough
        _print_error(code, message, remedy)
    raise typer.Exit(code)


def _print_error(code: int, message: str, remedy: str) -> None:
    from ..schemas.base import VERSION, Error, Failure

    failure = Failure(exit_code=code, message=encodable(message), remedy=encodable(remedy))
    document = Error(schema=VERSION, error=failure).model_dump(by_alias=True)
    with suppress(OSError, DcpDeployError):  # the words on stderr remain
        answer(lambda: print(json.dumps(document, indent=2)))


def _resume_hint(verb: str) -> str:
    if verb in ("build", "sweep") and "--force" in sys.argv:
        return "Run the same command again without --force to resume."
    if verb in ("build", "sweep", "distill", "score"):
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
    repeated = {parameter.name for parameter in context.command.params if getattr(parameter, "multiple", False)}
    read = {known[key]: value for key, value in values.items()}
    listed = {name: ",".join(map(str, value)) for name, value in read.items() if isinstance(value, list)
              and name not in repeated}  # fmt: skip
    context.default_map = {**(context.default_map or {}), **read, **listed}
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
