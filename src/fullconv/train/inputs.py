"""What the nets of a run see of each scene: which inputs of the dataset, and how their values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate

from fullconv.base.errors import FullconvError
from fullconv.data.folder import DatasetFolder
from fullconv.net.preprocessing import Preprocessing
from fullconv.papers.blueprint import NYUD_LOG_DEPTH

SPREAD_OF_LOG_DISTANCE = 0.5  # standard deviation of millimetres' logarithm, indoors and outdoors
SPREAD_OF_BYTES = 58.0  # of photographs' colours: torchvision's std times 255


def chosen_inputs(names: Sequence[str], folder: DatasetFolder) -> dict[str, int]:
    """Return the channels of the inputs that were asked for, by name.

    Raises:
        FullconvError: the dataset has no such input, or one is named twice.
    """
    own = [folder.info.input_name(name) for name in names]
    if len(set(own)) < len(own):
        raise FullconvError(f"inputs {','.join(names)}: name each of the dataset's once")
    return {name: folder.input(name).channels for name in names}


def unseen_inputs(inputs: Mapping[str, int], folder: DatasetFolder) -> tuple[str, ...]:
    """Return the dataset's inputs that a net of `inputs` leaves out."""
    seen = {folder.info.input_name(name) for name in inputs}
    return tuple(name for name in folder.info.inputs if name not in seen)


def preprocessing_for(
    inputs: Mapping[str, int], own: Preprocessing, known: Mapping[str, int]
) -> Preprocessing:
    """Return what a net of `inputs` expects that starts from a net or classifier of others.

    Inputs that are new to it, if they hold bytes, are treated as its colours are on average. If
    they hold distances in millimetres (one channel), it gets their logarithm, centred as
    NYUDv2's and as widely spread as the colours.

    Args:
        inputs: channels by name.
        own: what the net or classifier expects.
        known: its inputs; a classifier's is one of three channels, whatever its name.
    """
    places = dict(zip(known, (0, *accumulate(known.values())), strict=False))
    average = sum(own.mean[:3]) / len(own.mean[:3]), sum(own.std[:3]) / len(own.std[:3])
    distance = (
        NYUD_LOG_DEPTH * own.scale,
        average[1] * SPREAD_OF_LOG_DISTANCE / SPREAD_OF_BYTES,
    )
    values: list[tuple[float, float]] = []
    logarithmic: list[int] = []
    for name, channels in inputs.items():
        start = len(values)
        if name in known:
            kept = range(places[name], places[name] + channels)
            values += [(own.mean[at], own.std[at]) for at in kept]
            logarithmic += [start + at - kept.start for at in kept if at in own.logarithmic]
        else:
            values += [distance if channels == 1 else average] * channels
            logarithmic += [start] if channels == 1 else []
    mean, std = zip(*values, strict=True)
    return replace(own, mean=mean, std=std, logarithmic=tuple(logarithmic))


def joined_preprocessing(parts: Mapping[str, Preprocessing]) -> Preprocessing:
    """Return what a net expects each of whose trunks is another net's, by its input.

    Raises:
        FullconvError: one that is not the first expects blue before red, which a net does of its
            first input alone.
    """
    first = next(iter(parts.values()))
    mean: list[float] = []
    std: list[float] = []
    logarithmic: list[int] = []
    for name, part in parts.items():
        if part is not first and part.channels != "RGB" and len(part.mean) >= 3:
            raise FullconvError(
                f"input {name}: its model expects BGR, which a net can only of its first input"
            )
        factor = first.scale / part.scale
        logarithmic += [len(mean) + at for at in part.logarithmic]
        mean += [value * factor for value in part.mean]
        std += [value * factor for value in part.std]
    return replace(first, mean=tuple(mean), std=tuple(std), logarithmic=tuple(logarithmic))
