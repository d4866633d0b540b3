"""Which label ids the classes of a source get: mapped, ignored, in the order that is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fullconv.base.errors import FullconvError, few_named, nearest
from fullconv.datasets.formats.annotated import Source

BACKGROUND = "background"
IGNORE = "ignore"  # in place of a class's name
IGNORED = 255


@dataclass(frozen=True)
class ClassSettings:
    """What becomes of classes.

    Attributes:
        classes: all that there shall be, in the order of their ids; None: those of the source.
        mapping: new names by those of the source; "ignore" leaves a class's pixels out.
        ignore: names of the source's classes whose pixels are left out.
        background: class of the pixels that no region covers; "ignore" leaves them out. None:
            "background".
    """

    classes: tuple[str, ...] | None = None
    mapping: Mapping[str, str] = field(default_factory=dict)
    ignore: tuple[str, ...] = ()
    background: str | None = None


@dataclass(frozen=True)
class ClassPlan:
    """The label ids of a dataset.

    Attributes:
        names: of its classes, by id.
        ids: label ids by names of the source's classes, 255 for those to be ignored. Unknown
            classes have none.
        uncovered: label id of pixels that no region covers.
    """

    names: tuple[str, ...]
    ids: Mapping[str, int]
    uncovered: int


def plan_classes(source: Source, settings: ClassSettings) -> ClassPlan:
    """Decide on label ids.

    Raises:
        FullconvError: a class that is mapped or ignored is none of the source's; or a background
            is asked for where each pixel has a value.
    """
    _require_known(source, settings)
    complete = source.complete or bool(source.values)
    if complete and settings.background is not None:
        raise FullconvError(
            f"{source.root}: is {source.format}, where each pixel has a class: there is no "
            "background to name; see --map"
        )
    renamed = {name: settings.mapping.get(name, name) for name in source.classes}
    renamed |= dict.fromkeys(settings.ignore, IGNORE)
    new = [name for name in renamed.values() if name != IGNORE]
    background = settings.background or BACKGROUND
    first = [] if complete or background == IGNORE else [background]
    names = settings.classes or tuple(dict.fromkeys((*first, *new)))
    if settings.classes and first and background not in names and settings.background:
        raise FullconvError(
            f"--background {background}: is none of --classes{nearest(background, names)}"
        )
    by_name = {**{name: at for at, name in enumerate(names)}, IGNORE: IGNORED}
    ids = {old: by_name[name] for old, name in renamed.items() if name in by_name}
    uncovered = by_name.get(background, IGNORED) if not complete else IGNORED
    if not names:
        raise FullconvError(f"{source.root}: is {source.format} without any class left")
    return ClassPlan(names, ids, uncovered)


def palette(source: Source, plan: ClassPlan) -> Sequence[tuple[int, int, int]] | None:
    """Return a colour for each class, where the source has them all."""
    colours = {
        plan.ids[name]: colour for name, colour in source.palette.items() if name in plan.ids
    }
    found = [colours.get(at) for at in range(len(plan.names))]
    known = [colour for colour in found if colour is not None]
    return known if len(known) == len(found) else None


def _require_known(source: Source, settings: ClassSettings) -> None:
    for option, names in (("--map", settings.mapping), ("--ignore", settings.ignore)):
        for name in names:
            if name not in source.classes:
                raise FullconvError(
                    f"{option} {name}: is no class of {source.root}, which has "
                    f"{few_named(source.classes, 12)}{nearest(name, source.classes)}"
                )
