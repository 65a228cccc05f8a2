"""Check a bundle before a server loads it: every file against manifest.json. Needs only Python's standard library.

    python3 verify.py BUNDLE [SHA256]

SHA256 is what ``dcp-deploy bundle verify`` printed when the bundle was made. With it, nobody can have exchanged the
whole bundle; without it, the files are only compared with the manifest beside them. Exits with 1 and the name of a
file that was altered, lost or added.
"""

import hashlib
import json
import sys
from pathlib import Path


def digest(path: Path) -> str:
    """Return the sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check(bundle: Path, wanted: str) -> None:
    """End the program with what is wrong, if anything is."""
    found = digest(bundle / "manifest.json")
    if wanted and found != wanted:
        sys.exit(f"manifest.json is not the expected one: its sha256 is {found}, not {wanted}")
    files = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))["files"]
    seen = {"manifest.json", "manifest.sha256"}
    for path in bundle.rglob("*"):
        place = path.relative_to(bundle).as_posix()
        if place in seen or (path.is_dir() and not path.is_symlink()):
            continue
        if path.is_symlink() or not path.is_file() or place not in files:
            sys.exit(f"not a file of this bundle: {place}")
        if path.stat().st_size != files[place]["bytes"] or digest(path) != files[place]["sha256"]:
            sys.exit(f"altered: {place}")
        seen.add(place)
    if missing := sorted(set(files) - seen):
        sys.exit(f"missing: {missing[0]}")


if __name__ == "__main__":
    check(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "")
    print(f"{sys.argv[1]}: all files are as the bundle was made")
