"""Tensors, a portion at a time."""

from __future__ import annotations

import pytest
import torch

from fullconv.base import portions
from fullconv.base.portions import bits_of, is_finite

KINDS = [torch.float32, torch.bfloat16, torch.uint8, torch.int64, torch.bool]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(), (1,), (7,), (0,), (0, 3), (3, 0), (5, 4, 3, 2)])
@pytest.mark.parametrize("portion", [1, 100, 1 << 24])
def test_all_bytes_in_order(
    kind: torch.dtype, shape: tuple[int, ...], portion: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(portions, "PORTION", portion)
    tensor = (torch.randn(shape) * 50).to(kind)
    expected = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    assert b"".join(bits_of(tensor)) == expected
    if len(shape) == 4:
        other = tensor.contiguous(memory_format=torch.channels_last)
        assert b"".join(bits_of(other)) == expected


def test_portions_are_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portions, "PORTION", 64)
    tensor = torch.zeros(100, 4)
    assert {len(some) for some in bits_of(tensor)} == {64}
    assert [len(some) for some in bits_of(torch.zeros(2, 100))] == [400, 400]  # a line at least


@pytest.mark.parametrize("portion", [1, 64, 1 << 24])
def test_finite(portion: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portions, "PORTION", portion)
    tensor = torch.zeros(9, 5)
    assert is_finite(tensor) and is_finite(torch.tensor(3)) and is_finite(torch.zeros(0))
    for value in (float("nan"), float("inf"), -float("inf")):
        spoilt = tensor.clone()
        spoilt[8, 4] = value
        assert not is_finite(spoilt) and not is_finite(spoilt[8, 4])
