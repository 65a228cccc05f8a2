"""Words that readers stumbled over do not come back."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
RIDDLES = re.compile(
    r"(\b|_)is[ _]n[o][ _]|\bare n[o] [a-z]+ of\b|(\b|_)tol[d](\b|_)|\bat han[d]\b|\bmen[d](s|ed|ing)?\b"
    r"|\bof the[n]\b|\bits lik[e]\b|\broom[s]?\b|\bki[n]\b|\bwhoeve[r]\b|\bso man[y]\b|\bknows? n[o]\b"
    r"|\bof no[w]\b|\bhabit[s]?\b|\blisten[s]? to\b|\bin a bal[l]\b|\bthe name of wha[t]\b|\bbeside makin[g]\b"
    r"|\bno command kep[t]\b|\bmoves a wal[l]\b|\bmore the mor[e]\b|\bjudge[s]\b"
    r"|\bdraws (the network|an? image|images|pictures|what)\b",
    re.IGNORECASE,
)
"""Write: "is not a", "does not exist", "reported", "available", "repair", "older", "similar", "package", "this
many", "generates" images, "users" or another noun."""


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


MOST_WORDS = 30  # of a sentence; the aim is 25
NOT_PROSE = re.compile(r"```.*?```|<!-- figures .*?: end -->", re.DOTALL)  # commands, and tables made by programs
BLOCK = re.compile(r"^ *(?:[-*]|\d+\.) |^#+ |^\||\|", re.MULTILINE)  # a list item, a heading, a cell


def sentences(text: str) -> list[str]:
    """Return the sentences of a Markdown text. A colon or semicolon ends one, too."""
    blocks = re.split(r"\n\s*\n", BLOCK.sub("\n\n", NOT_PROSE.sub("\n\n", text)))
    return [one for block in blocks for one in re.split(r"(?<=[.!?:;])\s+|\s·\s", " ".join(block.split()))]


def test_sentences_of_the_documents_are_short() -> None:
    long = [
        f"{path.name}: {count} words: {sentence}"
        for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
        for sentence in sentences(path.read_text(encoding="utf-8"))
        if (count := sum(bool(re.search(r"\w", word)) for word in sentence.split())) > MOST_WORDS
    ]
    assert not long, "split them:\n" + "\n".join(long)


def test_sentences_end_at_full_stops_colons_and_blocks() -> None:
    text = "One two. Three:\n- four five\n- six `a.b`\n\n```sh\nnot a sentence\n```\n| a b | c |\n"
    assert [one for one in sentences(text) if one] == ["One two.", "Three:", "four five", "six `a.b`", "a b", "c"]
