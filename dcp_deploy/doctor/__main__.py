"""Run the checks without the command line, which may not start: ``python -m dcp_deploy.doctor``."""

from __future__ import annotations

import sys

from .diagnosis import diagnose

if __name__ == "__main__":
    diagnosis = diagnose()
    print("\n".join(diagnosis.lines()))
    sys.exit(0 if diagnosis.healthy else 4)
