"""Compare our CUDA path with PyTorch on the GPU of this machine.

    python -m dcp_deploy.benchmarks.experiments.cuda_path --out FILE

The networks are a full-width 256 px StyleGAN2 with random weights and its student with 70 % fewer channels in steps of
8. At every batch size it times the readable teacher and student, torch.compile of the teacher, and our path in float32
and float16, with and without a CUDA graph. The images are compared first, so only correct networks are timed.

All float32 convolutions follow torch's default for TF32; the comparison of images forbids TF32.
"""

from __future__ import annotations

import argparse
import random
import time
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ...errors import ParityError
from ...export.fused.cuda import CudaGenerator
from ...export.runners.cuda import STORAGE, CapturedGenerator
from ...files import write_json
from ...generators import Generator, GeneratorConfig
from ..candidates.device_steps import cuda_event
from ..candidates.loading import require_gpu
from ..latency import Call
from ..machine.environment import capture_environment
from ..statistics import ratio_of_medians, summarise

TEACHER = (512,) * 10 + (256,) * 2 + (128,) * 2
STUDENT = tuple(-(-width * 3 // 80) * 8 for width in TEACHER)  # 30 % of the channels, up to the next multiple of 8
BATCHES = (1, 8, 32, 64)
BASELINE = "teacher, eager fp32"

# Largest difference from the readable network, as a share of its images' range. Float32 sums in another order through
# 13 layers; float16 stores eleven bits.
TOLERANCES = {"fp32": 1e-3, "fp16": 3e-2}


def random_generator(widths: tuple[int, ...], seed: int) -> Generator:
    """Return a StyleGAN2 on the GPU with random weights and noise in every layer."""
    torch.manual_seed(seed)
    config = GeneratorConfig(resolution=2 ** (len(widths) // 2 + 1), widths=widths)
    generator = Generator(config).eval().requires_grad_(False)
    for name, tensor in generator.state_dict().items():
        if name.endswith("noise_strength"):
            tensor.fill_(0.1)
    return generator.cuda()


def differences(generator: Generator, batch: int = 5) -> dict[str, float]:
    """Return by precision the largest difference of our images from the readable network's, over the latter's range.

    Raises ParityError beyond TOLERANCES.
    """
    z = torch.randn(batch, generator.config.z_dim, generator=torch.Generator().manual_seed(0)).cuda()
    psi, found = torch.full((batch,), 0.7, device="cuda"), {}
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False), torch.no_grad():  # matmul has no TF32 by default
        expected = generator(z, psi=psi)
        for precision, limit in TOLERANCES.items():
            graph = CapturedGenerator(CudaGenerator(generator, storage=STORAGE[precision]).cuda(), batch)
            error = (graph(z, psi, None) - expected).abs().max() / (expected.max() - expected.min())
            found[precision] = float(error)
            if not found[precision] < limit:
                raise ParityError(f"{precision} images differ by {error:.2e}, more than {limit}", "Report this.")
    return found


def candidates(
    generators: Mapping[str, Generator], ours: Mapping[tuple[str, str], CudaGenerator], batch: int
) -> tuple[dict[str, Call], dict[str, Any]]:
    """Return calls by name, each of which enqueues one batch, and the up-sampling methods that our path chose."""
    z = torch.randn(batch, 512, generator=torch.Generator().manual_seed(batch)).cuda()
    psi = torch.ones(batch, device="cuda")
    chosen: dict[str, Any] = {}
    calls: dict[str, Call] = {f"{model}, eager fp32": partial(one, z, psi=psi) for model, one in generators.items()}
    for (model, precision), network in ours.items():
        graph = CapturedGenerator(network, batch)
        chosen[f"{model}, {precision}"] = dict(graph.methods)
        calls[f"{model}, ours {precision}, graph"] = partial(graph, z, psi, None)
        calls[f"{model}, ours {precision}"] = partial(network, z, psi, None, graph.methods)
    return calls, chosen


def compiled(generator: Generator, batch: int) -> Call:
    """Return torch.compile of the readable network for one batch size, after the first call, which takes a minute."""
    z, psi = torch.randn(batch, 512, device="cuda"), torch.ones(batch, device="cuda")
    call: Call = partial(torch.compile(generator, dynamic=False), z, psi=psi)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        call()
    return call


def timed(calls: Mapping[str, Call], rounds: int, seconds: float) -> dict[str, dict[str, list[float]]]:
    """Time interleaved rounds: milliseconds per call on the GPU, by events, and until the host sees the end."""
    samples: dict[str, dict[str, list[float]]] = {name: {"gpu": [], "host": []} for name in calls}
    order, start, done = random.Random(0), time.perf_counter(), 0
    while done < rounds and (done < 5 or time.perf_counter() - start < seconds):
        for name in order.sample(list(calls), len(calls)):
            begin, end = cuda_event(), cuda_event()
            torch.cuda.synchronize()
            host = time.perf_counter()
            begin.record()
            calls[name]()
            end.record()
            end.synchronize()
            samples[name]["host"].append((time.perf_counter() - host) * 1e3)
            samples[name]["gpu"].append(float(begin.elapsed_time(end)))
        done += 1
    return samples


def rows(samples: Mapping[str, Mapping[str, list[float]]], batch: int) -> list[dict[str, Any]]:
    """Return a JSON-ready row per candidate, with its speed-up on the GPU over the eager teacher."""
    found = []
    for name, kinds in samples.items():
        gpu, host = summarise(kinds["gpu"]), summarise(kinds["host"])
        speedup = asdict(ratio_of_medians(samples[BASELINE]["gpu"], kinds["gpu"]))
        found.append({
            "name": name, "batch": batch, "gpu_ms": gpu.p50_ms, "host_ms": host.p50_ms, "speedup": speedup,
            "images_per_second": batch * 1e3 / gpu.p50_ms, "gpu": asdict(gpu), "host": asdict(host), "samples": kinds,
        })  # fmt: skip
    return found


def table(found: list[dict[str, Any]]) -> str:
    """Return the rows as text."""
    lines = [f"{'batch':>5} {'candidate':34} {'GPU ms':>9} {'host ms':>9} {'speed-up':>9} {'images/s':>10}"]
    for row in found:
        rates = f"{row['speedup']['value']:8.2f}x {row['images_per_second']:10.1f}"
        lines.append(f"{row['batch']:5} {row['name']:34} {row['gpu_ms']:9.3f} {row['host_ms']:9.3f} {rates}")
    return "\n".join(lines)


def run(out: Path, batches: tuple[int, ...], rounds: int, seconds: float, compiles: tuple[int, ...]) -> None:
    """Measure and write ``out`` after every batch size, so that an interrupted run keeps its results."""
    require_gpu("this experiment")
    generators = {"teacher": random_generator(TEACHER, 0), "student": random_generator(STUDENT, 1)}
    record: dict[str, Any] = {
        "environment": asdict(capture_environment()), "teacher": TEACHER, "student": STUDENT,
        "rows": [], "forms": {}, "skipped": {},
        "tf32": {"cudnn": torch.backends.cudnn.allow_tf32, "matmul": torch.backends.cuda.matmul.allow_tf32},
        "differences": {model: differences(generator) for model, generator in generators.items()},
    }  # fmt: skip
    print("differences from the readable network:", record["differences"], flush=True)
    ours = {
        (model, precision): CudaGenerator(generator, storage=STORAGE[precision], image="uint8").cuda()
        for model, generator in generators.items()
        for precision in TOLERANCES
    }
    with torch.no_grad():
        for batch in batches:
            calls, record["forms"][str(batch)] = candidates(generators, ours, batch)
            if batch in compiles:
                try:
                    calls["teacher, torch.compile fp32"] = compiled(generators["teacher"], batch)
                except Exception as error:  # compilers raise any error; the record says why the row is missing
                    record["skipped"][f"torch.compile, batch {batch}"] = str(error).splitlines()[0]
            for call in calls.values():
                for _ in range(3):
                    call()
            found = rows(timed(calls, rounds, seconds), batch)
            record["rows"] += found
            write_json(out, record)
            print(table(found), flush=True)
            del calls
            torch.cuda.empty_cache()


def main() -> None:
    parser = argparse.ArgumentParser(description="Latency of our CUDA path beside PyTorch's, in one run.")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--rounds", type=int, default=100, help="at most, per batch size")
    parser.add_argument("--seconds", type=float, default=12.0, help="at most, per batch size, after five rounds")
    parser.add_argument("--compile", type=int, nargs="*", default=(1,), help="batch sizes to compile the teacher for")
    arguments = parser.parse_args()
    run(arguments.out, tuple(arguments.batches), arguments.rounds, arguments.seconds, tuple(arguments.compile))


if __name__ == "__main__":
    main()
