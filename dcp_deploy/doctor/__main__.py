"""``python -m dcp_deploy.doctor`` answers where the command line cannot start."""

from __future__ import annotations

from .diagnosis import main

if __name__ == "__main__":
    main()
