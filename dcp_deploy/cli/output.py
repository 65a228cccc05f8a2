"""What a verb prints: results on stdout, messages and progress on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import typer

from ..config import to_toml
from ..files import encodable, escaped, sha256_file, write_json, write_text
from ..progress import Pace, Progress, Reporter, duration
from .next_steps import next_command
from .options import config_keys
from .streams import SafeConsole, answer, is_closed, say

PLAIN_SECONDS = 15.0  # between two lines of progress without a terminal
WIDE = 160  # columns of a table without a terminal
NOT_SETTINGS = ("config", "debug", "as_json", "quiet")


class Output(Reporter):
    """Where a verb's words go, by its --json and --quiet."""

    def __init__(
        self,
        verb: str = "",
        context: typer.Context | None = None,
        *,
        as_json: bool = False,
        quiet: bool = False,
        config: Path | None = None,
    ) -> None:
        self.verb, self.context, self.as_json, self.quiet, self.config = verb, context, as_json, quiet, config
        self.piping = False  # whether standard output holds the verb's file, and nothing else
        self.saved = False  # whether the result is in a file: then standard output may be closed
        self.begun = time.monotonic()
        self.answered = False  # whether the JSON document is on stdout already
        self.stdout = SafeConsole(highlight=False, width=None if sys.stdout.isatty() else WIDE)
        self.stderr = SafeConsole(stderr=True, highlight=False)

    def was_typed(self, name: str) -> bool:
        """Return whether a parameter was given on the command line: not by a file, a variable or its default."""
        source = None if self.context is None else self.context.get_parameter_source(name)
        return source is not None and source.name == "COMMANDLINE"

    def result(self, document: dict[str, Any], *shown: Any) -> None:
        """Print the verb's answer: ``document`` with --json, else ``shown`` (texts or rich tables).

        A document is printed only if it fits its published schema: :func:`~.schemas.checked`.
        """
        if self.piping or (self.saved and is_closed()):
            return
        if self.as_json:
            from ..schemas import checked

            text = checked(self.verb, encodable(document))
            answer(lambda: print(text))  # at once: a program that reads from serve's pipe waits for it
            self.answered = True
            return
        for part in shown:
            words = escaped(part) if isinstance(part, str) else part
            answer(partial(self.stdout.print, words, markup=False, soft_wrap=isinstance(part, str)))

    def report(self, out: Path | None, document: dict[str, Any], *shown: Any) -> None:
        """Print the answer, and write it with its settings to ``out`` if given."""
        if out is not None:
            write_json(out, {"schema": 1, **document})
            self.write_settings(out)
        self.result(document, *shown)
        if out is not None:
            self.finished(out)

    def written(self, path: Path, **facts: Any) -> None:
        """Answer that a file was written: path, size, sha256 and settings, and ``facts``."""
        settings = self.write_settings(path)
        size = {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
        self.result({"path": str(path), **size, "settings": str(settings), **facts}, str(path))
        self.finished(path)

    def finished(self, path: Path, *, use: Path | None = None) -> None:
        """Say on stderr what was written, how long that took and what to run next; nothing with --json.

        ``use``: what the next verb takes, if it is not all of ``path``.
        """
        if self.as_json or self.piping or self.context is None:
            return
        from ..report.text import size

        bytes_written = f" ({size(path.stat().st_size)})" if path.is_file() else ""
        following = next_command(self.verb, self.context.params, use or path)
        words = f" Next: {following}" if following else ""
        self.message(f"wrote {path}{bytes_written} in {duration(time.monotonic() - self.begun)}.{words}")

    def write_settings(self, beside: Path) -> Path:
        """Write the verb's flags as ``<result>.toml``, which its own --config reads back; never over that file."""
        assert self.context is not None
        self.saved = True
        path = self.settings_of(beside)
        if self.config is not None and path.exists() and path.samefile(self.config):
            return path
        given = self.context.params
        values = {
            key: given[name] for key, name in config_keys(self.context.command).items() if name not in NOT_SETTINGS
        }
        write_text(path, f"# dcp-deploy {self.context.info_name}\n{to_toml(values)}")
        return path

    def settings_of(self, result: Path) -> Path:
        """Return the path of the settings of a result."""
        return result.with_name(f"{result.name}.toml")

    def message(self, text: str) -> None:
        """Print one line on stderr; nothing with --quiet."""
        if not self.quiet:
            say(self.stderr, text)

    def table(self, text: str) -> None:
        """Print a table of our own on stderr, line by line: the later lines of a message would be indented."""
        for line in text.splitlines():
            self.message(line)

    @contextmanager
    def task(self, title: str) -> Iterator[Progress]:
        """Show a spinner and a bar on a terminal, a line every fifteen seconds elsewhere, nothing with --quiet."""
        if self.quiet:
            yield lambda done, total: None
        elif self.stderr.is_terminal:
            with self._bar(title) as progress:
                yield progress
        else:
            yield _PlainProgress(title, self.message)

    @contextmanager
    def _bar(self, title: str) -> Iterator[Progress]:
        from .bars import bars_on

        pace = Pace()
        with bars_on(self.stderr, pace) as bars:
            task = bars.add_task(title, total=None)

            def progress(done: int, total: int) -> None:
                pace.update(done, total)
                bars.update(task, completed=done, total=total)

            yield progress


class _PlainProgress:
    """Prints ``title: 120/600, 1:00 elapsed, about 4:00 left``, at most every fifteen seconds."""

    def __init__(self, title: str, say: Callable[[str], None], now: Callable[[], float] = time.monotonic) -> None:
        self.title, self.say, self.pace = title, say, Pace(now)
        self.said = self.pace.started

    def __call__(self, done: int, total: int) -> None:
        self.pace.update(done, total)
        if self.pace.last - self.said >= PLAIN_SECONDS and done < total:
            self.said = self.pace.last
            self.say(f"{self.title}: {self.pace}")
