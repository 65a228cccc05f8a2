"""What ``build_engine`` passes to TensorRT, through the real Polygraphy and the real bindings over stub libraries.

Run as a program whose PYTHONPATH leads to one version of the bindings. Builder, network and configuration are mocks
that have the names of the real classes and no others. Prints, without options and with all, what was asked for.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import polygraphy.backend.trt as poly
import tensorrt as trt

from dcp_deploy.export import EngineOptions
from dcp_deploy.export.tensorrt import engine as tensorrt
from dcp_deploy.export.tensorrt import targets


def build(onnx: Path, out: Path, options: EngineOptions) -> dict[str, Any]:
    """Build with mocks and collect their arguments."""
    config = mock.NonCallableMagicMock(spec=trt.IBuilderConfig)
    config.get_flag.return_value, config.get_memory_pool_limit.return_value = False, 0
    config.DLA_core, config.num_optimization_profiles = -1, 1
    if hasattr(config, "int8_calibrator"):
        config.int8_calibrator = None
    for cache in (config.get_timing_cache.return_value, config.create_timing_cache.return_value):
        cache.serialize.return_value, cache.combine.return_value = memoryview(b"times"), True
    profile = mock.NonCallableMagicMock(spec=trt.IOptimizationProfile)
    profile.__bool__.return_value = True
    profile.get_shape.return_value = ([1, 512], [1, 512], [1, 512])  # for what Polygraphy prints
    builder = mock.NonCallableMagicMock(spec=trt.Builder)
    builder.create_builder_config.return_value = config
    builder.create_optimization_profile.return_value = profile
    builder.build_serialized_network.return_value = b"\0trt plan"
    network = mock.NonCallableMagicMock(spec=trt.INetworkDefinition)
    inputs = [mock.NonCallableMagicMock(spec=trt.ITensor) for _ in range(2)]
    for tensor, (name, shape) in zip(inputs, {"z": (-1, 512), "psi": (-1,)}.items(), strict=True):
        tensor.name, tensor.shape, tensor.is_shape_tensor = name, shape, False
    network.num_inputs, network.get_input.side_effect = 2, inputs.__getitem__
    network.__getitem__.side_effect = IndexError  # no layers
    parser = mock.NonCallableMagicMock(spec=trt.OnnxParser)
    loader = mock.Mock(return_value=lambda: (builder, network, parser))
    with mock.patch.object(poly, "NetworkFromOnnxPath", loader):
        engine = tensorrt.build_engine(onnx, out, target="auto", flavour="tensorrt", batch=(1, 2, 4), options=options)
    (path,), keywords = loader.call_args
    assert path == str(onnx)
    shapes = {call.args[0]: [list(shape) for shape in call.args[1:]] for call in profile.set_shape.call_args_list}
    level = config.hardware_compatibility_level
    return {
        "flags": sorted(call.args[0].name for call in config.set_flag.call_args_list),
        "profile": shapes,
        "level": level.name if isinstance(level, trt.HardwareCompatibilityLevel) else "NONE",
        "strongly_typed": keywords["strongly_typed"],
        "timing_cache": options.timing_cache is not None and Path(options.timing_cache).is_file(),
        "recorded": engine.manifest["build_flags"],
        "plugins": engine.manifest["plugins"],
    }


def main(onnx: Path, cache: Path) -> None:
    """Print the collected arguments."""
    targets.present_gpu = lambda: "sm90"
    registry = mock.NonCallableMagicMock(spec=trt.IPluginRegistry)
    trt.get_plugin_registry = lambda: registry
    every = EngineOptions(version_compatible=True, hardware_compatible=True, refit=True, timing_cache=str(cache))
    print(json.dumps([build(onnx, cache.with_name("x.engine"), options) for options in (EngineOptions(), every)]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
