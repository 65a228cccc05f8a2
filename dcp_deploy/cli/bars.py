"""Progress on a terminal. A module of its own: rich's bars are imported only where one is shown."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text

from ..progress import Pace

WIDE = 110  # columns from which a bar fits beside the longest title and the words


class _Turning(SpinnerColumn):
    """A spinner that also turns when all is counted, because work without a count may follow."""

    def render(self, task: Task) -> Text:
        return Text.assemble(self.spinner.render(task.get_time()))  # type: ignore[arg-type]  # text, of this spinner


class _Words(ProgressColumn):
    max_refresh = None

    def __init__(self, pace: Pace) -> None:
        super().__init__(Column(no_wrap=True))
        self.pace = pace

    def render(self, task: Task) -> Text:
        del task  # rich's own estimate ends with the first of several nested tasks
        return Text(str(self.pace))


def bars_on(console: Console, pace: Pace) -> Progress:
    """Return a line that vanishes at the end: a spinner, the title, a bar where it fits, and the words of ``pace``."""
    bar = [BarColumn(bar_width=20)] if console.width >= WIDE else []
    return Progress(_Turning(), TextColumn("{task.description}"), *bar, _Words(pace), console=console, transient=True)
