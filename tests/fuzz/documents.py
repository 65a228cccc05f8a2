"""What is fuzzed beside checkpoints and archives: documents from outside, each with valid ones to start from."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import torch
from safetensors.numpy import save

from dcp_deploy.checkpoints.codes import read_codes
from dcp_deploy.checkpoints.direction_import import read_foreign_directions
from dcp_deploy.errors import InputError, MissingCapabilityError, UsageError
from dcp_deploy.export.integrity import parse_manifest, parse_record
from dcp_deploy.export.serving.request_checks import Refusal, check_body, check_message, parsed_message
from dcp_deploy.export.tensorrt.manifest import EngineManifest, image_size
from dcp_deploy.gates import QUALITY, parse_requirements
from dcp_deploy.generators import GeneratorConfig
from dcp_deploy.pipeline.record import RunRecord
from dcp_deploy.report.run_directory import read_run_directory

from ..checkpoints.small_files import damaged
from ..engine_facts import ENGINE
from . import answers
from .answers import downloader

MOST = 4096  # values of the largest request
SMALL = GeneratorConfig(16, (8,) * 6, z_dim=8, w_dim=8, mapping_layers=1)
# Texts at which readers of JSON stumble.
PIECES = (
    b"null", b"true", b"-1", b"1e999", b"NaN", b"Infinity", b'"\\u0000"', b'"\\ud800"', b"[" * 3000, b'{"a":' * 3000,
    b"9" * 5000, b"1.5", b"[]", b"{}", b'"BF16"', b"\xff\xfe", b"", b'{"schema": 1, "schema": 2}',
)  # fmt: skip


@dataclass(frozen=True)
class Target:
    """A reader. It returns, or raises one of ``refused``; everything else is a finding."""

    valid: tuple[bytes, ...]
    read: Callable[[bytes], object]
    refused: tuple[type[Exception], ...] = ()
    pieces: tuple[bytes, ...] = PIECES

    def accepts(self, content: bytes) -> bool:
        try:
            self.read(content)
        except self.refused:
            return False
        return True


def targets(folder: Path) -> dict[str, Target]:
    """Return all targets by name; readers of files use ``folder``."""
    wrong = (InputError, UsageError)
    return {
        "run record": Target(_records(), lambda content: _load_record(folder, content)),
        "files of a run": Target(_figures(), lambda content: _read_run(folder, content), wrong),
        "bundle manifest": Target((json.dumps(_manifest()).encode(),), parse_manifest, (ValueError,)),
        "engine manifest": Target((json.dumps(_engine()).encode(),), _read_engine, (ValueError,)),
        "request, JSON": Target((_request(),), lambda body: check_body(body, None, most_json=MOST * 8), (Refusal,)),
        "request, binary": Target((_request(binary=True),), _check_binary, (Refusal,)),
        "request, gRPC": Target((_message(),), _check_message, (Refusal,)),
        "directions": Target(_arrays(), lambda content: _directions(folder, content), wrong),
        "codes": Target(_arrays(), lambda content: _codes(folder, content), wrong),
        "download answers": Target(answers.VALID, downloader(folder), (MissingCapabilityError,), answers.PIECES),
        "requirement": Target((b"fid<2", b"recall>=0.95*teacher"), _requirement, wrong),
    }


def mutated(target: Target, random: Random) -> bytes:
    """Return a valid document after a few changes of bytes, or with a value of another form in it."""
    content = random.choice(target.valid)
    if random.random() < 0.4:
        start = random.randrange(len(content) + 1)
        end = min(len(content), start + random.choice((0, 1, 2, 8, 40)))
        content = content[:start] + random.choice(target.pieces) + content[end:]
    return damaged(content, list(target.valid), random) if random.random() < 0.7 else content


# ---- readers ----


def _load_record(folder: Path, content: bytes) -> None:
    (folder / "run.json").write_bytes(content)
    RunRecord.load(folder).save()  # what was kept can be written again


def _read_run(folder: Path, content: bytes) -> None:
    (folder / "run.json").write_text('{"schema": 1}')
    for name in ("metrics.json", "bench.json", "parity.json", "gates.json"):
        (folder / name).write_bytes(content)
    try:
        read_run_directory(folder)
    finally:
        for name in ("metrics.json", "bench.json", "parity.json", "gates.json"):
            (folder / name).unlink()


def _read_engine(content: bytes) -> None:
    image_size(parse_record(content, EngineManifest))


def _check_binary(body: bytes) -> None:
    check_body(body, str(max(body.find(b"}]}") + 3, 1)), most_json=MOST * 8)


def _check_message(content: bytes) -> None:
    check_message(parsed_message(content, most_values=MOST), most=MOST)


def _directions(folder: Path, content: bytes) -> None:
    (folder / "file").write_bytes(content)
    read_foreign_directions(folder / "file")


def _codes(folder: Path, content: bytes) -> None:
    (folder / "file").write_bytes(content)
    read_codes(folder / "file", SMALL)


def _requirement(content: bytes) -> None:
    parse_requirements([content.decode("utf-8", "replace")], QUALITY)


# ---- valid documents ----


def _records() -> tuple[bytes, ...]:
    stage = {"status": "done", "reused": False, "outputs": {"student.safetensors": "0" * 64}, "seconds": 1.5}
    network = {"kind": "stylegan2", "resolution": 64, "widths": [8, 8], "parameters": 1, "macs": 2}
    run = {"schema": 1, "status": "finished", "stages": {"distill": stage}, "networks": {"student": network}}
    return (json.dumps(run).encode(), b"{}")


def _figures() -> tuple[bytes, ...]:
    quality = {"fid": 1.5, "recall": 0.8, "rare": {"hat=top hat": 0.5}}
    row = {"name": "student", "p50_ms": 2.5, "speedup": {"value": 7.5}, "samples_ms": [2.5, 2.6]}
    gate = {"requirement": "fid<2", "metric": "fid", "value": 1.5, "limit": 2.0, "passed": True, "text": "fid 1.5"}
    documents = (
        {"schema": 1, "models": {"student": quality}},
        {"schema": 1, "baseline": "teacher", "rows": [row], "unstable_because": []},
        {"schema": 1, "passed": True, "requirements": [gate]},
    )
    return tuple(json.dumps(document).encode() for document in documents)


def _manifest() -> dict[str, object]:
    model = {"onnx": "a.onnx", "max_batch": 8, "inputs": {"z": [8]}, "output": {"image": [8, 8, 3]},
             "variants": ["onnx"], "parity": {"max_abs": 0.1}}  # fmt: skip
    return {
        "schema": 1, "kind": "dcp-deploy bundle", "name": "demo", "tool": "dcp-deploy 0",
        "models": {"generator": model}, "directions": {"age": {"layers": [1, 2], "sigma": 0.5}},
        "engines": [{"file": "a.engine"}],
        "sizing": {"best": {"instances": 1, "threads": 2}}, "provenance": {},
        "files": {"a.onnx": {"bytes": 9, "sha256": "0" * 64}},
    }  # fmt: skip


def _engine() -> dict[str, object]:
    return {**ENGINE, "kind": "stylegan2", "resolution": 16, "widths": [8] * 6, "config": SMALL.to_dict()}


def _request(*, binary: bool = False) -> bytes:
    z = np.zeros(8, np.float32)
    tensor: dict[str, object] = {"name": "z", "datatype": "FP32", "shape": [1, 8]}
    tensor |= {"parameters": {"binary_data_size": z.nbytes}} if binary else {"data": z.tolist()}
    return json.dumps({"inputs": [tensor]}).encode() + (z.tobytes() if binary else b"")


def _message() -> bytes:
    from tritonclient.grpc.service_pb2 import ModelInferRequest

    request = ModelInferRequest(model_name="generator")
    request.inputs.add(name="z", datatype="FP32", shape=[1, 8])
    request.raw_input_contents.append(struct.pack("<8f", *range(8)))
    return bytes(request.SerializeToString())


def _arrays() -> tuple[bytes, ...]:
    vector = np.arange(8, dtype=np.float32)[None]
    npy, npz, torch_file = io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.save(npy, vector)
    np.savez(npz, comp=vector[:, None], std=np.ones(1, np.float32))
    torch.save({"latent": torch.from_numpy(vector)}, torch_file)
    return npy.getvalue(), npz.getvalue(), torch_file.getvalue(), save({"age": vector})
