"""What a training was begun with, as last.pt keeps it, and what of it has changed since."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from fullconv.base.errors import FullconvError
from fullconv.base.progress import Reporter
from fullconv.data.info import DatasetInfo
from fullconv.train.settings import MAY_CHANGE, TrainSettings

NAMED = 3  # of many images that came or went


@dataclass(frozen=True)
class Origin:
    """What a training was begun with.

    Attributes:
        settings: of the run, but for those that say where it is trained.
        classes: by head.
        unscored: likewise, which the means leave out.
        offsets: the value of the first class in masks, likewise.
        ignore_index: the label that counts nowhere.
        channels: of each input, by its name.
        images: names of the samples, by split.
    """

    settings: Mapping[str, Any]
    classes: Mapping[str, Sequence[str]]
    unscored: Mapping[str, Sequence[str]]
    offsets: Mapping[str, int]
    ignore_index: int
    channels: Mapping[str, int]
    images: Mapping[str, Sequence[str]]

    @classmethod
    def of(
        cls,
        settings: TrainSettings,
        info: DatasetInfo,
        channels: Mapping[str, int],
        images: Mapping[str, Sequence[str]],
    ) -> Self:
        """Return that of a training that begins now."""
        return cls(
            settings.model_dump(mode="json", exclude=set(MAY_CHANGE)),
            {name: list(head.classes) for name, head in info.heads.items()},
            {name: list(head.unscored) for name, head in info.heads.items()},
            {name: head.offset for name, head in info.heads.items()},
            info.ignore_index,
            dict(channels),
            {name: list(names) for name, names in images.items()},
        )

    def require_same(self, now: Origin, last: Path, record: Path, data: Path) -> None:
        """Refuse to continue where a net would learn something else than it was begun for.

        Args:
            now: what the training would continue with.
            last: the file that keeps this one.
            record: the run's recipe.yaml.
            data: the dataset folder.

        Raises:
            FullconvError: the classes, what is ignored, the inputs or a setting differ.
        """
        for change in _changes(self, now):
            raise FullconvError(
                f"{data}: {change} since {last} was written; --resume continues on the classes and "
                "inputs that a run was begun with: put them back, or begin another run from what "
                f"was learnt (--weights {last.parent} --out OTHER)"
            )
        for key, (was, is_) in _differing(self.settings, now.settings).items():
            raise FullconvError(
                f"{record}: {key} was {was!r} when the training began and is {is_!r} now; --resume "
                "continues a run as it was begun: put it back, or begin another run from what was "
                f"learnt (--weights {last.parent} --out OTHER)"
            )

    def tell_images(self, now: Origin, reporter: Reporter) -> None:
        """Say which images came and went."""
        for split, names in now.images.items():
            before = self.images.get(split, ())
            came, went = sorted(set(names) - set(before)), sorted(set(before) - set(names))
            if came or went:
                told = " and ".join(
                    f"{len(these)} image{'s' * (len(these) > 1)} {what} ({_some(these)})"
                    for these, what in ((came, "came"), (went, "went"))
                    if these
                )
                reporter.warn(f"note: {split} has changed since it was last trained on: {told}")

    def measures_otherwise(self, now: Origin) -> bool:
        """Tell whether what val measures has changed: its images, or which classes count."""
        images = [set(each.images.get("val", ())) for each in (self, now)]
        return images[0] != images[1] or self.unscored != now.unscored


def require_same_classes(folder: Path, info: DatasetInfo, data: Path) -> None:
    """Refuse a dataset of other classes than the model has that a training of old kept.

    Raises:
        FullconvError: the classes differ.
    """
    config = json.loads((folder / "config.json").read_text("utf-8"))
    heads = config.get("heads") or dict.fromkeys(info.heads, config)
    before = {name: head["classes"] for name, head in heads.items()}
    if change := _first_change(before, {name: each.classes for name, each in info.heads.items()}):
        raise FullconvError(
            f"{data}: {change} since {folder} was trained; --resume continues on the same classes: "
            f"put them back, or begin another run from it (--weights {folder} --out OTHER)"
        )


def _first_change(before: Mapping[str, Sequence[str]], now: Mapping[str, Sequence[str]]) -> str:
    """Say how classes by head have changed; empty where they have not."""
    if list(before) != list(now):
        return f"its heads were {', '.join(before)} and are {', '.join(now)}"
    for head, own in before.items():
        of = f" of {head}" if len(before) > 1 else ""
        if len(own) != len(now[head]):
            return f"there were {len(own)} classes{of} and are {len(now[head])}"
        for label, (was, is_) in enumerate(zip(own, now[head], strict=True)):
            if was != is_:
                return f"class {label}{of} was {was!r} and is {is_!r}"
    return ""


def _changes(before: Origin, now: Origin) -> Iterator[str]:
    """Say what has changed of that which a net learns."""
    if change := _first_change(before.classes, now.classes):
        yield change
    for name, was, is_ in (
        ("ignore_index", before.ignore_index, now.ignore_index),
        ("offset", before.offsets, now.offsets),
        ("channels", before.channels, now.channels),
    ):
        if was != is_:
            yield f"{name} was {was} and is {is_}"


def _differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the settings that differ, of those that both know."""
    found: dict[str, tuple[Any, Any]] = {}
    for key in before.keys() & now.keys():
        if isinstance(before[key], Mapping) and isinstance(now[key], Mapping):
            found |= _differing(before[key], now[key])
        elif before[key] != now[key]:
            found[key] = before[key], now[key]
    return found


def _some(names: Sequence[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
