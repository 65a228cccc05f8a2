"""Every error that a user can cause, with the exit code that the command line returns for it::

    DcpDeployError              1   the common base; by itself: a training that diverged
      UsageError                2   a flag, a value or a combination that cannot work
      InputError                3   a file that is bad, unsafe or corrupt
        UnsafeFileError             reading it would run its code
        CorruptFileError            damaged, truncated or inconsistent
        UnknownFormatError          an unknown format
      MissingCapabilityError    4   a package, a GPU or a file to download is missing
      GateError                 5   a check refused the result
        ParityError                 two artefacts do not generate the same images
        QualityError                the student is worse than allowed
      StaleArtifactError        6   an engine or file made for something else

The command line maps KeyboardInterrupt to 130 (interrupted, resumable).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DcpDeployError(Exception):
    """Base of all errors with a remedy. ``message`` names the value, ``remedy`` says what to do about it."""

    exit_code = 1
    usual_remedy = ""
    """The remedy of errors that are raised without one."""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy or self.usual_remedy

    def __str__(self) -> str:
        return f"{self.message}\n{self.remedy}" if self.remedy else self.message


def choose(value: object, choices: Iterable[object]) -> str:
    """Return the remedy for a name that is not among the choices: the one most like it, and all of them."""
    names = [str(choice) for choice in choices]
    close = difflib.get_close_matches(str(value), names, n=1)
    guess = f"Did you mean {close[0]}? " if close else ""
    return f"{guess}Choose one of: {', '.join(names)}."


def as_share(value: float) -> str:
    """Return the remedy for a share that is too large, which may be a percentage."""
    percent = value if 2 <= value < 100 else 70
    return f"It is a share: for {percent:g} % write {percent / 100:g}."


class UsageError(DcpDeployError):
    """A flag, a value or a combination that cannot work."""

    exit_code = 2


class InputError(DcpDeployError):
    """A file that is bad, unsafe or corrupt."""

    exit_code = 3
    usual_remedy = "Give another file, or make this one again."


class UnsafeFileError(InputError):
    """A file that could be read only by running code from it."""


class CorruptFileError(InputError):
    """A file that is damaged, truncated or inconsistent."""

    usual_remedy = "Copy, fetch or make it again: it is damaged or was altered."


class UnknownFormatError(InputError):
    """A file whose content matches none of the formats that can be read."""


class MissingCapabilityError(DcpDeployError):
    """A package, a device or a file to download is missing on this machine."""

    exit_code = 4


class GateError(DcpDeployError):
    """A check refused the result."""

    exit_code = 5


class ParityError(GateError):
    """Two artefacts that should generate the same images do not."""


class QualityError(GateError):
    """A student that is worse than the gate allows."""


class StaleArtifactError(DcpDeployError):
    """An engine or a file that was made for something else."""

    exit_code = 6
