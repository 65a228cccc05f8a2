"""``python -m dcp_deploy.schemas``: write the published schemas anew from their models."""

from __future__ import annotations

import json
from pathlib import Path

from . import MODELS, generate

for verb in MODELS:
    file = Path(__file__).with_name(f"{verb}.json")
    file.write_text(json.dumps(generate(verb), indent=2) + "\n", encoding="utf-8")
    print(file.name)
