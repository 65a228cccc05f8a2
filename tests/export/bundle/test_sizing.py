from __future__ import annotations

import pytest

from dcp_deploy.export.bundle import sizing


@pytest.mark.parametrize(
    ("cores", "quota", "allowed"), [(8, None, 8), (8, 2.0, 2), (8, 2.5, 2), (8, 0.5, 1), (2, 6.0, 2)]
)
def test_the_quota_and_the_affinity_limit_the_cores(
    monkeypatch: pytest.MonkeyPatch, cores: int, quota: float | None, allowed: int
) -> None:
    monkeypatch.setattr(sizing, "usable_cores", lambda: cores)
    monkeypatch.setattr(sizing, "cpu_quota", lambda: quota)
    assert sizing.allowed_cores() == allowed
