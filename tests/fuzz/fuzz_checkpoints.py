"""Coverage-guided fuzzing of the checkpoint readers: `make fuzz`, `make fuzz SECONDS=600 FORMATS="native tensorflow"`.

Every format is fuzzed in its own process, which starts from a small valid file and from the inputs that earlier runs
kept in build/fuzz/<format>. An input fails if reading it raises any error but ours, or takes more than ten seconds or
half a gigabyte. Failed inputs are kept in build/fuzz/failures, and the exit code is then 1.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from random import Random

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "build" / "fuzz"
MEMORY_MB = 512 + 512  # memory of the idle process, and most memory of one input


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=60, help="for each format")
    parser.add_argument("--in-process", metavar="FORMAT", help="fuzz this format here; used by the process that starts")
    parser.add_argument("formats", nargs="*")
    arguments = parser.parse_args()
    if arguments.in_process:
        fuzz(arguments.in_process, arguments.seconds)
    from ..checkpoints import small_files

    failed = []
    for form in arguments.formats or small_files.small_files():
        done = subprocess.run(
            [sys.executable, "-m", __spec__.name, "--in-process", form, "--seconds", str(arguments.seconds)],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        runs = re.findall(r"stat::number_of_executed_units:\s*(\d+)", done.stderr)
        print(
            f"{form}: {runs[-1] if runs else 'no'} inputs, {'FAILED' if done.returncode else 'no failure'}", flush=True
        )
        if done.returncode:
            failed.append(form)
            print(done.stderr[-4000:])
    return 1 if failed else 0


def fuzz(form: str, seconds: int) -> None:
    """Fuzz one format until libFuzzer ends the process after this time."""
    import atheris
    import torch

    from dcp_deploy.errors import InputError

    with atheris.instrument_imports(include=["dcp_deploy.checkpoints"]):
        from dcp_deploy.checkpoints import read_checkpoint

        from ..checkpoints import small_files
    torch.set_num_threads(1)
    contents = small_files.small_files()
    others = list(contents.values())
    corpus, failures = KEPT / form, KEPT / "failures"
    for folder in (corpus, failures):
        folder.mkdir(parents=True, exist_ok=True)
    (corpus / "valid").write_bytes(contents[form])
    place = Path(tempfile.mkdtemp()) / "file"

    def read(content: bytes) -> None:
        place.write_bytes(small_files.whole(form, content))
        try:
            read_checkpoint(place)
        except InputError:
            return

    def mutate(content: bytes, size: int, seed: int) -> bytes:
        """Alternate between libFuzzer's mutations and ours, which know pickle instructions and the other formats."""
        ours = seed % 2 and content
        return small_files.damaged(content, others, Random(seed))[:size] if ours else atheris.Mutate(content, size)

    options = [
        f"-max_total_time={seconds}",
        "-timeout=10",
        f"-rss_limit_mb={MEMORY_MB}",
        "-max_len=65536",
        "-print_final_stats=1",
        f"-artifact_prefix={failures}/{form}-",
    ]
    read(contents[form])  # imports what is imported late
    atheris.Setup([sys.argv[0], *options, str(corpus)], read, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
