"""What a coarse net could reach at best: truth itself, downsampled and enlarged (PAMI, appendix A).

Mean IU forgives coarse outlines. To see how much, the paper takes the truth at every f-th pixel,
enlarges it back, and scores it as if a net had predicted it: the score of a perfect net of stride f
that may not interpolate. It comes to 0.861 on PASCAL VOC at stride 32 and to 0.964 at stride 8:
the net's mistakes, not its stride, are what an FCN-8s loses most by. On scenes full of thin things
(poles, people far off) the bounds lie much lower, and skips matter the more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

from fullconv.base.pipeline import ahead
from fullconv.data.thinness import coarsened
from fullconv.measure.metrics import ConfusionMatrix, Metrics

if TYPE_CHECKING:
    from fullconv.base.progress import Progress
    from fullconv.data.folder import Split
    from fullconv.data.info import HeadInfo

PUBLISHED: Mapping[int, float] = MappingProxyType(
    {128: 0.509, 64: 0.733, 32: 0.861, 16: 0.928, 8: 0.964, 4: 0.985}
)
"""The paper's mean IU by factor, on a subset of PASCAL VOC 2011 val."""


def upper_bounds(
    split: Split, factors: Sequence[int] = tuple(PUBLISHED), bar: Progress | None = None
) -> dict[str, dict[int, Metrics]]:
    """Score the truth of a split after coarsening it by each of `factors`.

    Args:
        split: whose labels are taken; of its images only the headers are read.
        factors: sides of the cells in pixels.
        bar: advances by one an image.

    Returns:
        The metrics by head and factor, each over the whole split.

    Raises:
        FullconvError: a mask can't be read, holds a wrong label, or misfits its image.
    """
    counts = {
        name: {factor: _count(head) for factor in factors} for name, head in split.heads.items()
    }
    for layers in ahead(split.labels, range(len(split))):
        for by_factor, labels in zip(counts.values(), layers, strict=True):
            for factor, count in by_factor.items():
                count.update(labels, coarsened(labels, factor, count.num_classes))
        if bar is not None:
            bar.advance()
    return {
        name: {factor: count.metrics() for factor, count in by_factor.items()}
        for name, by_factor in counts.items()
    }


def _count(head: HeadInfo) -> ConfusionMatrix:
    return ConfusionMatrix(len(head.classes), [head.classes.index(name) for name in head.unscored])
