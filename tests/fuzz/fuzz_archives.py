"""Differential fuzzing of packed bundles: ``python -m tests.fuzz.fuzz_archives 2000``.

Of each seed a small bundle is packed, and most of them are changed. What `bundle verify` accepts must be unpacked to
the files of its manifest, and to no others, by GNU tar, bsdtar and Python's tarfile. What it refuses must raise
InputError and nothing else. Archives that fail are kept in build/fuzz/failures; the exit code is then 1.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from ..export.differential import UNPACKERS, difference
from ..export.forged_archives import random_archive

ROOT = Path(__file__).parents[2]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", type=int, nargs="?", default=2000)
    parser.add_argument("--first-seed", type=int, default=0)
    arguments = parser.parse_args()
    results: Counter[str] = Counter()
    failed, slowest = [], 0.0
    with tempfile.TemporaryDirectory() as scratch:
        for seed in range(arguments.first_seed, arguments.first_seed + arguments.count):
            content, start = random_archive(seed), time.perf_counter()
            try:
                result = difference(content, Path(scratch))
            except Exception as error:  # any is a finding
                kept = ROOT / "build" / "fuzz" / "failures" / f"archive-{seed}.tar.zst"
                kept.parent.mkdir(parents=True, exist_ok=True)
                kept.write_bytes(content)
                failed.append(f"{kept}: {type(error).__name__}: {error}")
                continue
            slowest = max(slowest, time.perf_counter() - start)
            results[result] += 1
    for result, number in results.most_common():
        print(f"{result}: {number}")
    absent = [name for name, unpacker in UNPACKERS.items() if unpacker is None]
    print(f"{arguments.count} archives, {len(failed)} failures, slowest {slowest:.2f} s"
          + (f"; not installed, so not compared: {', '.join(absent)}" if absent else ""))  # fmt: skip
    print(*failed[:20], sep="\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
