"""Run the program in the first of the processes that torchrun or srun started; the others help it."""

from __future__ import annotations

from collections.abc import Callable

from ..distributed.places import find_place, is_first
from ..errors import DcpDeployError
from .streams import SafeConsole, say


def launch(program: Callable[[], int]) -> int:
    """Run the program and return its exit code, in every process of a launch. A plain program simply runs."""
    stderr = SafeConsole(stderr=True, highlight=False)
    try:
        if find_place() is None:
            return program()
        from ..distributed.launched import run_launched

        return run_launched(program, lambda text: say(stderr, text))
    except DcpDeployError as error:
        if is_first():
            say(stderr, f"error: {error.message}")
            say(stderr, error.remedy)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
