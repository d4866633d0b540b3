"""Devices by name."""

from __future__ import annotations

import pytest
import torch

from fullconv.base.errors import FullconvError
from fullconv.base.runtime import pick_device


def test_the_cpu_is_always_there():
    assert pick_device("cpu") == torch.device("cpu")
    expected = "cuda" if torch.cuda.is_available() else "mps"
    expected = expected if torch.cuda.is_available() or torch.mps.is_available() else "cpu"
    assert pick_device().type == expected


@pytest.mark.parametrize("name", ["tpu", "cpu:1", "cuda:x", ""])
def test_other_names_are_refused(name):
    with pytest.raises(FullconvError, match="none of auto, cpu, cuda, mps"):
        pick_device(name)


@pytest.mark.parametrize("name", ["cuda:99", "cuda", "mps"])
def test_what_is_absent_is_refused(name):
    if name == "cuda" and torch.cuda.is_available():
        pytest.skip("CUDA is present")
    if name == "mps" and torch.backends.mps.is_available():
        pytest.skip("MPS is present")
    with pytest.raises(FullconvError, match=f"no {name} device found"):
        pick_device(name)
