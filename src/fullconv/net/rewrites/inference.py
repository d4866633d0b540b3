"""A module for inference alone, which leaves the one it is made of as it is."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TypeVar

from torch import nn

Module = TypeVar("Module", bound=nn.Module)


def inference_twin(
    module: Module, convolution: Callable[[nn.Parameter], nn.Parameter] | None = None
) -> Module:
    """Return a twin in evaluation mode that shares all weights and statistics, but no gradients.

    The module may go on being trained meanwhile, in whatever modes its parts are: nothing of it is
    switched, so that any thread may ask for a twin at any time.

    Args:
        module: stays as it is.
        convolution: gives what the twin's convolutions have in place of each of their parameters.
    """
    shared: dict[int, object] = {id(each): each for each in module.buffers()}
    shared |= {id(each): _frozen(each) for each in module.parameters()}
    for part in module.modules():
        if convolution is not None and isinstance(part, nn.Conv2d):
            shared |= {id(each): convolution(each) for each in part.parameters()}
    # deepcopy takes what the memo holds in place of a copy.
    return copy.deepcopy(module, shared).eval()


def _frozen(parameter: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(parameter.detach(), requires_grad=False)
