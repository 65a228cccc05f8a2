"""Training of the avatar reader: repeatable, with a loss that ignores hidden factors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dcp_deploy.datasets.factors import FACTOR_INDEX, FACTORS, Factors, encode, sample_factors
from dcp_deploy.training.avatar_reader import degrade, reading_loss, train_reader


def test_training_repeats_bit_for_bit() -> None:
    first, second = (train_reader(steps=2, batch=4).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_loss_is_smallest_at_the_truth() -> None:
    factors = sample_factors(np.arange(32))
    code = torch.from_numpy(encode(factors))
    logits = code.clone()
    logits[:, categorical_columns()] *= 20.0
    truth = reading_loss(logits, factors)
    assert truth < 0.3  # from label smoothing
    for column in range(code.shape[1]):
        worse = logits.clone()
        worse[:, column] = worse[:, column] * -1.0 + 0.3
        assert reading_loss(worse, factors) > truth


def categorical_columns() -> list[int]:
    columns, start = [], 0
    for factor in FACTORS:
        if factor.kind == "categorical":
            columns += range(start, start + factor.width)
        start += factor.width
    return columns


def test_eyes_behind_sunglasses_do_not_change_the_loss() -> None:
    table = sample_factors(np.arange(8)).table.copy()
    table[:, FACTOR_INDEX["glasses"]] = 2.0
    outputs = torch.zeros(8, encode(Factors(table)).shape[1])
    before = reading_loss(outputs, Factors(table))
    table[:, FACTOR_INDEX["eye_colour"]] *= -0.3
    assert reading_loss(outputs, Factors(table)) == before


def test_degrading_keeps_the_range_and_a_quarter_of_the_images() -> None:
    images = torch.rand(400, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    soft, defects = degrade(images, np.random.default_rng(0))
    assert soft.abs().max() <= 1.0
    spared = (soft == images).all(dim=3).all(dim=2).all(dim=1)
    assert spared.float().mean().item() == pytest.approx(0.25, abs=0.1)
    assert torch.equal(spared, (defects == 0.0).all(dim=1))
    assert defects.shape == (400, 2) and defects.min() >= 0.0 and 0.9 < defects.max() <= 1.0
