"""Words that readers stumbled over do not come back."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
RIDDLES = re.compile(
    r"(?<!here )\bis n[o] |\bare n[o] [a-z]+ of\b|\btol[d]\b|\bat han[d]\b|\bmen[d](s|ed|ing)?\b"
    r"|\bof the[n]\b|\bits lik[e]\b|\broom[s]?\b",
    re.IGNORECASE,
)
"""Write: "is not a" ("there is no" is plain), "reported", "available", "repair", "older", "similar", "package"."""


def test_no_riddles() -> None:
    kinds = ["*.py", "*.md", "*.cu", "*.cuh", "*.cpp", "*.hpp", "*.jinja", "*.rst", "*.toml", "*Dockerfile", "Makefile"]
    listed = subprocess.run(
        ["git", "ls-files", "-z", *kinds], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    hits = [
        f"{name}:{number}: {line.strip()}"
        for name in filter(None, listed.split("\0"))
        if (ROOT / name).is_file()
        for number, line in enumerate((ROOT / name).read_text(encoding="utf-8").splitlines(), 1)
        if RIDDLES.search(line)
    ]
    assert not hits, f"{len(hits)} lines that a reader has to decode; say them plainly:\n" + "\n".join(hits)
