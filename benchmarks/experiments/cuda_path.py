"""Compare our CUDA path with PyTorch and ONNX Runtime on a GPU: parts of the experiment :mod:`.gpu`.

The networks are a full-width 256 px StyleGAN2 with random weights and its student with 70 % fewer channels in steps of
8. At every batch size the candidates are the readable teacher and student, torch.compile of both, ONNX Runtime's CUDA
provider, and our path in float32 and float16, with and without a CUDA graph. The images are compared first.

torch's float32 convolutions follow its default for TF32; the comparison of images forbids TF32. ONNX Runtime waits for
the end of each call, so its time on the GPU includes its launches.
"""

from __future__ import annotations

import copy
import random
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...errors import MissingCapabilityError, ParityError
from ...export import export_onnx
from ...export.fused.cuda import CudaGenerator
from ...export.graph.file import read_whole_onnx
from ...export.graph.inlining import fix_batch, inlined
from ...export.runners.cuda import STORAGE
from ...export.runners.sessions import onnx_session
from ...generators import Generator, GeneratorConfig
from ..latency import Call
from ..statistics import ratio_of_medians, summarise
from .gpu_machine import Machine

TEACHER = (512,) * 10 + (256,) * 2 + (128,) * 2
STUDENT = tuple(-(-width * 3 // 80) * 8 for width in TEACHER)  # 30 % of the channels, up to the next multiple of 8
BASELINE, OURS = "teacher, eager fp32", "student, ours fp16, graph"

# Largest difference from the readable network, as a share of its images' range. Float32 sums in another order through
# 13 layers; float16 stores eleven bits.
TOLERANCES = {"fp32": 1e-3, "fp16": 3e-2}


@dataclass(frozen=True)
class Pair:
    """Teacher and student on a machine, and our path for both in every precision of TOLERANCES."""

    generators: Mapping[str, Generator]
    ours: Mapping[tuple[str, str], CudaGenerator]
    folder: Path
    """Where exported files are written."""


def random_pair(machine: Machine, folder: Path, configs: Mapping[str, GeneratorConfig]) -> Pair:
    """Return generators with random weights, and our path for them with 8-bit images."""
    generators = {name: random_generator(config).to(machine.device) for name, config in configs.items()}
    ours = {
        (model, precision): CudaGenerator(generator, storage=STORAGE[precision], image="uint8").to(machine.device)
        for model, generator in generators.items()
        for precision in TOLERANCES
    }
    return Pair(generators, ours, folder)


def full_size() -> dict[str, GeneratorConfig]:
    """Return teacher and student at 256 px."""
    return {name: GeneratorConfig(256, widths) for name, widths in {"teacher": TEACHER, "student": STUDENT}.items()}


def random_generator(config: GeneratorConfig) -> Generator:
    """Return a StyleGAN2 with random weights and noise in every layer."""
    torch.manual_seed(0)
    generator = Generator(config).eval().requires_grad_(False)
    for name, tensor in generator.state_dict().items():
        if name.endswith("noise_strength"):
            tensor.fill_(0.1)
    return generator


def latents(machine: Machine, batch: int, z_dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return z [batch, z_dim] of a fixed seed and psi 1 on the device."""
    z = torch.randn(batch, z_dim, generator=torch.Generator().manual_seed(batch))
    return z.to(machine.device), torch.ones(batch, device=machine.device)


def differences(generator: Generator, machine: Machine, batch: int = 5) -> dict[str, float]:
    """Return by precision the largest difference of our images from the readable network's, over the latter's range.

    Raises ParityError beyond TOLERANCES.
    """
    z, _ = latents(machine, batch, generator.config.z_dim)
    psi, found = torch.full((batch,), 0.7, device=machine.device), {}
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False), torch.no_grad():  # matmul has no TF32 by default
        expected = generator(z, psi=psi)
        for precision, limit in TOLERANCES.items():
            network = CudaGenerator(generator, storage=STORAGE[precision]).to(machine.device)
            error = (machine.capture(network, batch)(z, psi, None) - expected).abs().max()
            found[precision] = float(error / (expected.max() - expected.min()))
            if not found[precision] < limit:
                raise ParityError(
                    f"{precision} images differ by {found[precision]:.2e}, more than {limit}", "Report this."
                )
    return found


# ---- candidates ----


def our_calls(pair: Pair, machine: Machine, batch: int) -> tuple[dict[str, Call], dict[str, Any]]:
    """Return calls of torch and of our path by name, and the up-sampling methods that our path chose."""
    chosen: dict[str, Any] = {}
    calls: dict[str, Call] = {}
    for model, generator in pair.generators.items():
        z, psi = latents(machine, batch, generator.config.z_dim)
        calls[f"{model}, eager fp32"] = partial(generator, z, psi=psi)
    for (model, precision), network in pair.ours.items():
        z, psi = latents(machine, batch, network.config.z_dim)
        graph = machine.capture(network, batch)
        chosen[f"{model}, {precision}"] = dict(graph.methods)
        calls[f"{model}, ours {precision}, graph"] = partial(graph, z, psi, None)
        calls[f"{model}, ours {precision}"] = partial(network, z, psi, None, graph.methods)
    return calls, chosen


def compiled(generator: Generator, machine: Machine, batch: int) -> Call:
    """Return torch.compile of the readable network for one batch size, after the first call, which takes a minute."""
    z, psi = latents(machine, batch, generator.config.z_dim)
    call: Call = partial(torch.compile(generator, dynamic=False, backend=machine.compiler), z, psi=psi)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        call()
    return call


def exported(generator: Generator, file: Path, precision: str) -> None:
    """Write the ONNX file of a generator with 8-bit images, unless it is there."""
    if not file.exists():
        on_cpu = copy.deepcopy(generator).cpu()
        export_onnx(on_cpu, file, image="uint8", precision=precision)  # type: ignore[arg-type]


def onnxruntime_call(pair: Pair, machine: Machine, model: str, precision: str, batch: int) -> Call:
    """Return a call of ONNX Runtime's CUDA provider on a file for this batch, with inputs and images on the GPU.

    Raises MissingCapabilityError without onnxruntime-gpu. On a CPU it is ONNX Runtime there.
    """
    require_onnxruntime(machine)
    file = pair.folder / f"{model}-{precision}.onnx"
    exported(pair.generators[model], file, precision)
    whole = read_whole_onnx(file)
    fix_batch(whole, batch)
    backend = "onnxruntime-cuda" if machine.is_gpu else "onnxruntime"
    session = onnx_session(file, inlined(whole).SerializeToString(), backend, None)
    z, psi = latents(machine, batch, pair.generators[model].config.z_dim)
    images = torch.empty(session.get_outputs()[0].shape, dtype=torch.uint8, device=machine.device)
    binding, place = session.io_binding(), (machine.device.type, machine.device.index or 0)
    for name, tensor in {"z": z, "psi": psi}.items():
        binding.bind_input(name, *place, np.float32, tuple(tensor.shape), tensor.data_ptr())
    binding.bind_output("image", *place, np.uint8, tuple(images.shape), images.data_ptr())

    def call(keep: tuple[torch.Tensor, ...] = (z, psi, images)) -> torch.Tensor:
        session.run_with_iobinding(binding)
        return keep[-1]

    return call


def require_onnxruntime(machine: Machine) -> None:
    """Raise MissingCapabilityError unless ONNX Runtime is there for the machine."""
    provider = "CUDAExecutionProvider" if machine.is_gpu else "CPUExecutionProvider"
    if find_spec("onnxruntime") is None or provider not in import_module("onnxruntime").get_available_providers():
        raise MissingCapabilityError("onnxruntime-gpu is not installed", "Install it: pip install 'dcp-deploy[gpu]'")


def other_calls(pair: Pair, machine: Machine, batch: int, until: float) -> Iterator[tuple[str, Call | str]]:
    """Yield the calls of torch.compile and ONNX Runtime by name, or in place of a call the reason why it is missing.

    ``until`` is the time of ``time.monotonic`` after which nothing more is compiled.
    """
    makers: dict[str, Any] = {}
    for model, generator in reversed(list(pair.generators.items())):  # the student first, while there is time
        makers[f"{model}, torch.compile fp32"] = partial(compiled, generator, machine, batch)
        for precision in reversed(TOLERANCES):
            name = f"{model}, ONNX Runtime CUDA {precision}"
            makers[name] = partial(onnxruntime_call, pair, machine, model, precision, batch)
    for name, make in makers.items():
        if time.monotonic() > until:
            yield name, "no time left to make it"
            continue
        try:
            yield name, make()
        except Exception as error:  # compilers and runtimes raise any error; the record says why the row is missing
            yield name, (str(error).splitlines() or [repr(error)])[0][:200]


# ---- timing ----


def timed(
    calls: Mapping[str, Call], machine: Machine, rounds: int, seconds: float
) -> dict[str, dict[str, list[float]]]:
    """Time interleaved rounds: milliseconds per call on the device, by events, and until the host sees the end.

    At least five rounds, then up to ``rounds`` within ``seconds``.
    """
    samples: dict[str, dict[str, list[float]]] = {name: {"gpu": [], "host": []} for name in calls}
    order, start, done = random.Random(0), time.perf_counter(), 0
    while done < rounds and (done < 5 or time.perf_counter() - start < seconds):
        for name in order.sample(list(calls), len(calls)):
            begin, end = machine.event(), machine.event()
            machine.wait()
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
