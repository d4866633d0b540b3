"""What the layers of a net take of memory, counted without data."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fullconv.net.fcn import FCN
from fullconv.net.head import Size
from fullconv.net.rewrites.folding import fold_norms
from fullconv.net.surgery import inference_twin


def layer_bytes(net: FCN, size: Size) -> int:
    """Return how many bytes the layers of a net hold at once, at the worst, of an image.

    The net is run without data: what is counted are the tensors that live at the same time.

    Args:
        net: any.
        size: of the image, height and width in pixels.
    """
    twin = inference_twin(net)
    fold_norms(twin)
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True), _Live() as live:
        twin.coarse_of_pixels(
            torch.empty(1, *size, sum(net.inputs.values()), dtype=torch.uint8, device=net.device)
        )
    return int(live.most)


class _Live(TorchDispatchMode):
    """Counts the bytes of the tensors that are alive.

    Attributes:
        most: at once, so far.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most: int = 0
        self._now: int = 0
        self._known = weakref.WeakSet[Any]()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation and count what it makes."""
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.untyped_storage() not in self._known:
                storage = tensor.untyped_storage()
                self._known.add(storage)
                self._now += storage.nbytes()
                weakref.finalize(storage, self._free, storage.nbytes())
        self.most = max(self.most, self._now)
        return result

    def _free(self, count: int) -> None:
        self._now -= count
