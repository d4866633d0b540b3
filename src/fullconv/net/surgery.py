"""Surgery on weights: from net to net by name (Caffe's ``surgery.py``)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from fullconv.base.errors import FullconvError

Part = TypeVar("Part", bound=nn.Module)


@dataclass(frozen=True)
class Transplant:
    """What a transplant did, by names of parameters and buffers.

    Attributes:
        copied: now equal to the source's.
        missing: in the target alone; left as they were (a new skip's score, say).
        misfit: in both, with different numbers of values; left as they were.
    """

    copied: tuple[str, ...]
    missing: tuple[str, ...]
    misfit: tuple[str, ...]


def transplant(
    source: nn.Module, target: nn.Module, prefixes: Mapping[str, str] | None = None
) -> Transplant:
    """Copy every same-named parameter and buffer from `source` into `target`, in place.

    A dense layer's matrix fits the convolution that it becomes: values are copied in order when
    their number is the same and the output channels agree. This is how each stage starts from the
    one before (paper, section 4.2): trunk and scores are taken over, a new skip's scores stay 0.

    Args:
        source: whose values are read.
        target: whose values are replaced.
        prefixes: where names differ, the beginnings of the target's names for those of the
            source's: ``{"trunk.": "trunk.color."}`` fills the color trunk of a late fusion
            (Caffe's transplant by suffix). Of several that fit a name the longest holds.
    """
    donors = {_renamed(name, prefixes or {}): value for name, value in source.state_dict().items()}
    own = target.state_dict()
    copied, misfit = [], []
    with torch.no_grad():
        for name in (name for name in own if name in donors):
            donor, value = donors[name], own[name]
            if donor.numel() == value.numel() and donor.shape[:1] == value.shape[:1]:
                value.copy_(donor.reshape(value.shape))
                copied.append(name)
            else:
                misfit.append(name)
    missing = tuple(name for name in own if name not in donors)
    return Transplant(tuple(copied), missing, tuple(misfit))


def _renamed(name: str, prefixes: Mapping[str, str]) -> str:
    fitting = [prefix for prefix in prefixes if name.startswith(prefix)]
    if not fitting:
        return name
    longest = max(fitting, key=len)
    return prefixes[longest] + name.removeprefix(longest)


COLORS = 3  # red, green and blue


def with_channels(convolution: nn.Conv2d, channels: int) -> nn.Conv2d:
    """Return the convolution for another number of input channels, from 3 to 4 as a rule.

    The filters of the first channels stay; a further one's is the mean of all that there are (for
    depth beside colours, nyud-fcn32s-color-d: its weights start in the range of the others').
    Fewer than three channels are no colours: each has that mean. The bias is copied. It is where
    the convolution is, in its precision.

    Raises:
        FullconvError: the convolution is grouped.
    """
    if convolution.groups != 1:
        raise FullconvError(
            "the input channels of a grouped convolution can't be changed: give it the "
            f"{convolution.in_channels} that it has"
        )
    adapted = nn.Conv2d(
        channels,
        convolution.out_channels,
        convolution.kernel_size,  # type: ignore[arg-type]
        convolution.stride,  # type: ignore[arg-type]
        convolution.padding,  # type: ignore[arg-type]
        convolution.dilation,  # type: ignore[arg-type]
        bias=convolution.bias is not None,
        padding_mode=convolution.padding_mode,
        device=convolution.weight.device,
        dtype=convolution.weight.dtype,
    )
    filters = convolution.weight.detach()
    kept = filters[:, : channels if channels >= COLORS else 0]
    mean = filters.mean(1, keepdim=True).expand(-1, channels - kept.shape[1], -1, -1)
    with torch.no_grad():
        adapted.weight.copy_(torch.cat((kept, mean), 1))
        if adapted.bias is not None and convolution.bias is not None:
            adapted.bias.copy_(convolution.bias)
    return adapted.train(convolution.training)


def show_colours(convolution: nn.Conv2d, show: Sequence[int], order: str = "RGB") -> None:
    """Move the filters of red, green and blue to the bands that are shown as these, in place.

    Args:
        convolution: one that `with_channels` made: its first three channels are of colours, and all
            others alike.
        show: numbers of bands, from 1, of red, green and blue.
        order: of the first three channels.
    """
    places = [at - 1 for at in show]
    others = [at for at in range(convolution.in_channels) if at not in places]
    if len(set(places)) < COLORS:
        return
    filters = convolution.weight.detach().clone()
    with torch.no_grad():
        for place, colour in zip(places, "RGB", strict=True):
            convolution.weight[:, place] = filters[:, order.index(colour)]
        for place in others:
            convolution.weight[:, place] = filters[:, -1]


def expand_score(
    source: Mapping[str, torch.Tensor], target: nn.Module, taken: Sequence[int | None]
) -> None:
    """Fill a head's scores and upscores from those of a head for other classes, in place.

    Args:
        source: the other head's state, by the names in its own `state_dict`.
        target: the head to fill.
        taken: of each class of the target, its number in the source; None leaves it as it is (a
            new class, whose scores start at zero). Caffe's ``expand_score`` keeps the old classes
            first: ``[0, 1, ..., 20, None, None]``.
    """
    mine = [label for label, theirs in enumerate(taken) if theirs is not None]
    theirs = [label for label in taken if label is not None]
    own = target.state_dict()
    with torch.no_grad():
        for name in own.keys() & source.keys():
            if own[name].shape[1:] == source[name].shape[1:]:  # else of another trunk
                own[name][mine] = source[name][theirs]


def with_parts(module: Part, **parts: nn.Module) -> Part:
    """Return a module with other parts of the given names, which shares everything else."""
    twin = copy.copy(module)
    twin._modules = {**module._modules, **parts}
    return twin


def inference_twin(
    module: Part, convolution: Callable[[nn.Parameter], nn.Parameter] | None = None
) -> Part:
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
