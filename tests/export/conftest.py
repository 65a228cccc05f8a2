from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dcp_deploy.export import export_onnx
from dcp_deploy.generators import Generator, GeneratorConfig

GOLDEN = Path(__file__).parents[1] / "data" / "golden"


def random_generator(widths: tuple[int, ...], *, seed: int = 0, scale: float = 1.0, **config: object) -> Generator:
    """A generator in which noise, biases and the mean code all matter; ``scale`` multiplies the styles of the convs."""
    torch.manual_seed(seed)
    resolution = 2 ** (len(widths) // 2 + 1)
    sizes: dict[str, object] = {"z_dim": 12, "w_dim": 16, "mapping_layers": 2, **config}
    generator = Generator(GeneratorConfig(resolution=resolution, widths=widths, **sizes))  # type: ignore[arg-type]
    for name, parameter in generator.named_parameters():
        if name.endswith("noise_strength"):
            torch.nn.init.normal_(parameter, 0.3, 0.1)
        elif name.startswith("synthesis") and name.endswith("bias") and "affine" not in name:
            torch.nn.init.normal_(parameter, 0.0, 0.3)
        elif ".conv" in name and ".affine." in name:
            parameter.data *= scale
    torch.nn.init.normal_(generator.mapping.w_avg)
    return generator.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def unconditional(golden_generator: Callable[[str], Generator]) -> Generator:
    return golden_generator("sg2ada_32")


@pytest.fixture(scope="session")
def conditional(golden_generator: Callable[[str], Generator]) -> Generator:
    return golden_generator("sg2ada_32_cond_clamp")


@pytest.fixture(scope="session")
def float_onnx(unconditional: Generator, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unconditional golden generator, float output, transposed up-sampling."""
    path = tmp_path_factory.mktemp("onnx") / "float.onnx"
    return export_onnx(unconditional, path, image="float", upsample="transposed", metadata={"licence": "none needed"})


@pytest.fixture(scope="session")
def uint8_onnx(conditional: Generator, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The class-conditional golden generator, uint8 output, polyphase up-sampling."""
    return export_onnx(conditional, tmp_path_factory.mktemp("onnx") / "uint8.onnx", image="uint8", upsample="polyphase")
