"""Every error a user can cause, with the exit code the command line returns for it.

    DcpDeployError              1   the common base; by itself: a training that diverged
      UsageError                2   a flag, a value or a combination that cannot work
      InputError                3   a file that is bad, unsafe or corrupt
        UnsafeFileError             would have to run code to be read
        CorruptFileError            damaged, truncated or inconsistent
        UnknownFormatError          no format that we know
      MissingCapabilityError    4   a package, a GPU or a file to download is missing
      GateError                 5   a check refused the result
        ParityError                 two artefacts do not draw the same images
        QualityError                the student is worse than allowed
      StaleArtifactError        6   an engine or file made for something else

130 (interrupted, resumable) belongs to KeyboardInterrupt and is mapped in ``cli.py``.
"""

from __future__ import annotations


class DcpDeployError(Exception):
    """Base of all errors with a remedy. ``message`` names the value, ``remedy`` says what to do about it."""

    exit_code = 1
    usual_remedy = ""
    """Of an error that knows no better one."""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy or self.usual_remedy

    def __str__(self) -> str:
        return f"{self.message}\n{self.remedy}" if self.remedy else self.message


class UsageError(DcpDeployError):
    """A flag, a value or a combination that cannot work."""

    exit_code = 2


class InputError(DcpDeployError):
    """A file that is bad, unsafe or corrupt."""

    exit_code = 3
    usual_remedy = "Give another file, or make this one again."


class UnsafeFileError(InputError):
    """Reading the file would mean running code from it."""


class CorruptFileError(InputError):
    """The file is damaged, truncated or contradicts itself."""

    usual_remedy = "It is damaged or was altered: copy, fetch or make it again."


class UnknownFormatError(InputError):
    """The content matches no format that we read."""


class MissingCapabilityError(DcpDeployError):
    """A package, a device or a file to download is missing on this machine."""

    exit_code = 4


class GateError(DcpDeployError):
    """A check refused the result."""

    exit_code = 5


class ParityError(GateError):
    """Two artefacts that should draw the same images do not."""


class QualityError(GateError):
    """The student is worse than the gate allows."""


class StaleArtifactError(DcpDeployError):
    """An engine or a file that was made for something else."""

    exit_code = 6
