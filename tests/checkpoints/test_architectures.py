"""State dicts of other repositories are read if they compute the same, and refused by their names if not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dcp_deploy.checkpoints import read_checkpoint
from dcp_deploy.errors import UnknownFormatError
from dcp_deploy.generators import Generator

from . import rosinality_writer


def basicsr_state(generator: Generator) -> dict[str, Tensor]:
    """Return the state dict of BasicSR's StyleGAN2Generator, which has rosinality's layers under other names."""
    made = {}
    for name, tensor in rosinality_writer.rosinality_state(generator).items():
        name = re.sub(r"^style\.", "style_mlp.", name).replace("input.input", "constant_input.weight")
        name = re.sub(r"^(conv1|convs\.\d+)\.noise\.weight", r"style_\1.weight", name)
        name = re.sub(r"^(conv1|convs)\.", r"style_\1.", name)
        name = re.sub(r"^(style_conv1|style_convs\.\d+|to_rgb1|to_rgbs\.\d+)\.conv\.", r"\1.modulated_conv.", name)
        name = name.replace(".modulated_conv.blur.", ".modulated_conv.smooth.").replace("noises.noise_", "noises.noise")
        made[name] = tensor
    return made


@pytest.mark.parametrize("key", ["params_ema", "params"])
def test_basicsr_s_stylegan2_is_read(key: str, tiny_generator: Generator, tmp_path: Path) -> None:
    torch.save({key: basicsr_state(tiny_generator)}, tmp_path / "net_g.pth")
    checkpoint = read_checkpoint(tmp_path / "net_g.pth")
    assert checkpoint.format == "basicsr"
    assert checkpoint.notes == ("no latent_avg: the mean code is that of 10,000 mapped latents of seed 0",)
    found = checkpoint.generator.state_dict()
    expected = {name: value for name, value in tiny_generator.state_dict().items() if name != "mapping.w_avg"}
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize(
    ("names", "what"),
    [
        (["style_mlp.1.weight", "style_conv1.modulated_conv.weight", "style_conv1.bias"], "clean variant of BasicSR"),
        (["stylegan_decoder.style_conv1.modulated_conv.weight", "condition_scale.0.0.weight"], "face restorer"),
        (["conv1.conv.weight", "conv1.conv.style_modulation.weight"], "mmgeneration.*BGR"),
        (["generator.conv1.conv.style_modulation.weight", "discriminator.x"], "mmgeneration"),
        (["input.input", "layers.0.blocks.0.attn.0.relative_position_index"], "StyleSwin"),
        (["mapping.dense0.weight", "synthesis.layer0.weight"], "genforce"),
        (["G.initial_block", "S.net.0.weight", "GE.initial_block"], "lucidrains"),
        (["init.init.0.weight_orig", "feat_8.1.weight_orig"], "FastGAN"),
        (["generator.progression.0.conv1.conv.weight"], "first version"),
    ],
)
@pytest.mark.parametrize("key", ["", "g_ema", "state_dict"])
def test_another_architecture_is_refused_by_its_name(names: list[str], what: str, key: str, tmp_path: Path) -> None:
    state = {name: torch.zeros(2) for name in names}
    torch.save({key: state} if key else state, tmp_path / "g.pt")
    with pytest.raises(UnknownFormatError, match=what) as caught:
        read_checkpoint(tmp_path / "g.pt")
    assert "damaged" not in str(caught.value)
