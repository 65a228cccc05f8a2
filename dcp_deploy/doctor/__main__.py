"""``python -m dcp_deploy.doctor`` answers where the command line cannot start."""

from __future__ import annotations

import sys

from .diagnosis import diagnose

if __name__ == "__main__":
    here = diagnose()
    print("\n".join(here.lines()))
    sys.exit(0 if here.healthy else 4)
