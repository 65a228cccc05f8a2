"""Run the ``dcp-deploy`` command as ``python -m dcp_deploy``."""

from __future__ import annotations

from .cli.app import main

if __name__ == "__main__":
    main()
