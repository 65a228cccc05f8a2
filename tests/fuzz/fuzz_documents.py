"""Fuzz run records, manifests, requests, directions and codes: ``python -m tests.fuzz.fuzz_documents --seconds 60``.

Inputs are valid documents after random changes; the seed of each is its number. An input fails if its reader raises
anything but what it promises, or takes more than ten seconds. Failed inputs are kept in build/fuzz/failures, and the
exit code is then 1.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from itertools import count
from pathlib import Path
from random import Random

from .documents import mutated, targets

ROOT = Path(__file__).parents[2]
LONGEST = 10.0  # seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="for each target")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("targets", nargs="*")
    arguments = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory() as scratch:
        for name in arguments.targets or targets(Path(scratch)):
            failed += fuzz(name, Path(scratch), arguments.seconds, arguments.first_seed)
    return 1 if failed else 0


def fuzz(name: str, folder: Path, seconds: float, seed: int) -> int:
    """Fuzz one target for this time, print what came out, and return the number of failures."""
    target = targets(folder)[name]
    begin, slowest, accepted, failures = time.monotonic(), 0.0, 0, 0
    for number in count(seed):
        content, start = mutated(target, Random(number)), time.monotonic()
        try:
            accepted += target.accepts(content)
            problem = "" if time.monotonic() - start < LONGEST else "too slow"
        except Exception as error:  # any is a finding
            problem = f"{type(error).__name__}: {error}"
        if problem:
            failures += 1
            kept = ROOT / "build" / "fuzz" / "failures" / f"{name.replace(' ', '-')}-{number}"
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_bytes(content)
            print(f"{kept}: {problem[:300]}")
        slowest = max(slowest, time.monotonic() - start)
        if time.monotonic() - begin > seconds:
            break
    tried = number - seed + 1
    print(f"{name}: {tried} inputs, {accepted} accepted, {failures} failures, slowest {slowest:.2f} s", flush=True)
    return failures


if __name__ == "__main__":
    sys.exit(main())
