"""Write the published schemas from their models: ``python -m dcp_deploy.schemas``."""

from __future__ import annotations

import json
from pathlib import Path

from . import MODELS, file_of, generate

for verb in MODELS:
    file = Path(__file__).with_name(file_of(verb))
    file.write_text(json.dumps(generate(verb), indent=2) + "\n", encoding="utf-8")
    print(file.name)
