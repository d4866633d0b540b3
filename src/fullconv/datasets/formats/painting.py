"""The label ids of one annotated image, from its regions or its values."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from fullconv.base.fill import Covered, Fill
from fullconv.datasets.formats.annotated import AnnotatedImage, Overlap, Region, Size, Values
from fullconv.datasets.formats.classes import IGNORED, ClassPlan

Labels = NDArray[np.uint8]
Tell = Callable[[str, str], None]  # a plural of what is wrong, and which it is

DAMAGED = (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError)


def paint_regions(
    regions: Sequence[Region],
    size: Size,
    plan: ClassPlan,
    *,
    fill: Fill,
    overlap: Overlap,
    tell: Tell,
) -> Labels:
    """Return the labels, uint8 H x W, of regions that are drawn one over the other.

    Args:
        regions: in the order in which their tool draws them.
        size: height and width.
        plan: the label ids.
        fill: which pixels polygons cover.
        overlap: which of two regions is seen; "smaller" compares pixels, of as many the later one
            is seen. What is to be ignored lies below all else there.
        tell: is told what can't be drawn, which is left out.
    """
    labels = np.full(size, plan.uncovered, np.uint8)
    drawn = [region for region in regions if _has_class(region, plan, tell)]
    if overlap == "earlier":
        drawn.reverse()
    elif overlap == "smaller" and len(drawn) > 1:
        areas = {id(each): int(_cover(each, size, fill, None).pixels.sum()) for each in drawn}
        drawn.sort(key=lambda each: (each.name is not None, -areas[id(each)]))
    for region in drawn:
        y, x, pixels = _cover(region, size, fill, tell)
        label = IGNORED if region.name is None else plan.ids[region.name]
        labels[y : y + pixels.shape[0], x : x + pixels.shape[1]][pixels] = label
    return labels


def paint_values(
    image: AnnotatedImage, values: Values, names: dict[int, str | None], plan: ClassPlan, tell: Tell
) -> Labels:
    """Return the labels, uint8 H x W, of values; those without a name are told and ignored."""
    found, places = np.unique(values, return_inverse=True)
    ids = np.full(len(found), IGNORED, np.uint8)
    for at, value in enumerate(found.tolist()):
        if value not in names and value >= 0:
            tell("values that are no class", f"{value} in {image.about.name}")
        elif (name := names.get(value)) is not None:
            if name in plan.ids:
                ids[at] = plan.ids[name]
            else:
                tell("classes that are not asked for", name)
    labels: Labels = ids[places].reshape(values.shape)
    return labels


def _has_class(region: Region, plan: ClassPlan, tell: Tell) -> bool:
    if region.name is None or region.name in plan.ids:
        return True
    tell("classes that are not asked for", region.name)
    return False


def _cover(region: Region, size: Size, fill: Fill, tell: Tell | None) -> Covered:
    try:
        return region.outline.cover(size, fill)
    except DAMAGED as error:
        if tell is not None:
            tell("shapes that can't be drawn", f"{region.name}: {error}")
        return Covered(0, 0, np.zeros((0, 0), bool))
