"""``python -m dcp_deploy`` is the ``dcp-deploy`` command."""

from __future__ import annotations

from .cli.app import main

if __name__ == "__main__":
    main()
