"""The model card: README.md of a model folder, as the Hub shows it and people read it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fullconv.net.arguments import Labelling
from fullconv.net.folder import ModelConfig

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData

CARD = "README.md"
UNKNOWN = "unknown"  # the Hub's word for a licence that nobody stated
TASK = "image-segmentation"
POOR = 0.3  # an IU below it is named as a limit
MEASURES = {
    "mean_iu": "mean IU",
    "pixel_accuracy": "pixel accuracy",
    "mean_accuracy": "mean accuracy",
    "frequency_weighted_iu": "frequency weighted IU",
}


@dataclass(frozen=True)
class Background:
    """What a card tells beyond what a model folder knows.

    Attributes:
        data: the name of the dataset that the net was trained on; "" if it isn't known.
        unscored: by head, names of the classes that the means leave out.
        facts: name and value of what the training was like.
    """

    data: str = ""
    unscored: Mapping[str, Sequence[str]] | None = None
    facts: tuple[tuple[str, str], ...] = ()


def card(config: ModelConfig, background: Background = Background()) -> str:
    """Write the card of a model folder: metadata for the Hub, and a page for people."""
    title = _title(config)
    parts = [
        f"# {_plain(title)}{f', {_plain(background.data)}' if background.data else ''}",
        _intro(config),
        _use(config),
        *_results(config, background),
        _preprocessing(config),
        *_training(background),
        _limits(config, background),
        _LICENCE,
        _CITATION,
    ]
    return f"---\n{_metadata(config, background, title).to_yaml()}\n---\n\n" + "\n\n".join(parts)


def with_licence(text: str, licence: str) -> str:
    """Return a card's text with a licence noted, in the Hub's word for it: "apache-2.0"."""
    from huggingface_hub import ModelCard

    known = ModelCard(text, ignore_metadata_errors=True)
    known.data["license"] = licence
    stated = f"## Licence\n\nThe model is under {_plain(licence)}.\n"
    known.text = known.text.replace(_LICENCE + "\n", stated)
    return str(known)


def _title(config: ModelConfig) -> str:
    trunk = config.net.trunk
    return f"FCN-{config.net.stride}s" + (f" on {trunk}" if trunk else "")


def _metadata(config: ModelConfig, background: Background, title: str) -> ModelCardData:
    from huggingface_hub import EvalResult, ModelCardData

    data = background.data or UNKNOWN
    slug = re.sub(r"[^\w.]+", "-", data.lower(), flags=re.ASCII).strip("-.") or UNKNOWN
    results = [
        EvalResult(
            task_type=TASK,
            dataset_type=slug,
            dataset_name=data,
            dataset_split=config.metrics.get("split"),
            metric_type=measure,
            metric_name=MEASURES[measure] + (f" ({head})" if len(config.heads) > 1 else ""),
            metric_value=round(value, 4),
        )
        for head, achieved in _achieved(config)
        for measure in MEASURES
        if (value := _number(achieved.get(measure))) is not None
    ]
    trunk = (config.net.trunk or "").rpartition(":")[2]
    return ModelCardData(
        license=UNKNOWN,
        library_name="fullconv",
        pipeline_tag=TASK,
        tags=["semantic-segmentation", "fully-convolutional-network", *([trunk] if trunk else [])],
        datasets=[slug] if background.data else None,
        metrics=["mean_iou"] if results else None,
        model_name=title if results else None,
        eval_results=results or None,
    )


def _intro(config: ModelConfig) -> str:
    labelled = " and ".join(
        f"one of {len(head.classes)} classes" + (f" ({name})" if len(config.heads) > 1 else "")
        for name, head in config.heads.items()
    )
    inputs = " and ".join(config.net.inputs)
    size = "" if config.net.scale == 1 else f" It sees images at {config.net.scale} of their size."
    return (
        f"A fully convolutional network that gives each pixel of an image ({inputs}) {labelled}. "
        f"Its scores are worked out {config.net.stride} pixels apart and upsampled to the image, "
        f"which may have any size.{size}"
    )


def _use(config: ModelConfig) -> str:
    further = list(config.net.inputs)[1:]
    return _USE.format(
        given="array" if further else '"photo.jpg"',
        by_head=", by head" * (len(config.heads) > 1),
        further="".join(f" --input {name}=DIR" for name in further),
    )


_USE = """\
## How to use it

`pip install fullconv`; MODEL is this folder, or the id of this page on the Hub.

```python
import fullconv

net = fullconv.load("MODEL")
labels = net.predict({given})  # uint8 H x W class ids{by_head}
```

```
fullconv predict MODEL photo.jpg{further} --out labelled
```"""


def _results(config: ModelConfig, background: Background) -> Iterator[str]:
    """Yield the section of each head: its classes, and what it achieved on each."""
    achieved = dict(_achieved(config))
    for name, head in config.heads.items():
        own = achieved.get(name, {})
        of = f" of {name}" if len(config.heads) > 1 else ""
        lines = []
        if own:
            on = f"{_plain(background.data)}, " if background.data else ""
            split, images = config.metrics.get("split"), config.metrics.get("images")
            lines.append(f"Measured on {on}{split}, {images} images:\n")
            lines.append(_table(("measure", "value"), _measured(own)) + "\n")
        iu, unscored = own.get("iu", {}), (background.unscored or {}).get(name, ())
        lines.append(_table(("id", "class", "colour", "IU"), _classes(head, iu, unscored)))
        yield f"## Classes and accuracy{of}\n\n" + "\n".join(lines)


def _measured(own: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for measure, name in MEASURES.items():
        yield name, _fraction(own.get(measure))


def _classes(
    head: Labelling, iu: Mapping[str, Any], unscored: Sequence[str]
) -> Iterator[tuple[str, ...]]:
    for label, (name, colour) in enumerate(zip(head.classes, head.palette, strict=True)):
        note = " (in no mean)" * (name in unscored)
        yield (
            str(label),
            _plain(name),
            "#{:02x}{:02x}{:02x}".format(*colour),
            _fraction(iu.get(name)) + note,
        )


def _preprocessing(config: ModelConfig) -> str:
    own = config.preprocessing
    rows = [(key, _plain(", ".join(map(_short, _values(value))))) for key, value in own.items()]
    return (
        "## Preprocessing\n\nDone by `predict` and part of every export: (values * scale - mean) / "
        "std of RGB bytes, in the order of `channels`.\n\n" + _table(("what", "value"), rows)
    )


def _training(background: Background) -> Iterator[str]:
    if background.facts:
        rows = [(_plain(name), _plain(value)) for name, value in background.facts]
        yield "## Training\n\n" + _table(("what", "value"), rows)


def _limits(config: ModelConfig, background: Background) -> str:
    points = [
        "It knows its classes only, and gives every pixel one of them, whatever the image shows.",
        "It was measured on the images told above, if any; on other kinds of images it may do "
        "worse, and nobody has looked at whether it does so for some people or places.",
    ]
    if config.metrics.get("split") == "val":
        points.append(
            "The training looked at val to choose which weights to keep, so expect somewhat less "
            "on other images."
        )
    for name, achieved in _achieved(config):
        of = f" of {name}" if len(config.heads) > 1 else ""
        left_out = (background.unscored or {}).get(name, ())
        iu = {k: v for k, v in achieved.get("iu", {}).items() if k not in left_out}
        poor = [_plain(k) for k, v in iu.items() if v is not None and v < POOR]
        absent = [_plain(k) for k, v in iu.items() if v is None]
        if poor:
            points.append(f"Classes{of} with an IU below {POOR}: {', '.join(poor)}.")
        if absent:
            points.append(f"Classes{of} that were never measured: {', '.join(absent)}.")
    if all(head.temperature == 1 for head in config.heads.values()):
        points.append("Its probabilities are not calibrated.")
    else:
        points.append("Its probabilities are calibrated on the images told above.")
    return "## Limits\n\n" + "\n".join(f"- {point}" for point in points)


_LICENCE = """\
## Licence

Not stated. Those of the training images and of the classifier's weights may bind whoever uses the \
model."""

_CITATION = """\
## Citation

The architecture is that of Jonathan Long, Evan Shelhamer and Trevor Darrell, "Fully Convolutional \
Networks for Semantic Segmentation", CVPR 2015.
"""


def _achieved(config: ModelConfig) -> Iterable[tuple[str, Mapping[str, Any]]]:
    """Return the metrics of each head that was measured, by name."""
    if not config.metrics:
        return ()
    only = {next(iter(config.heads)): config.metrics}
    by_head: Mapping[str, Mapping[str, Any]] = config.metrics.get("heads", only)
    return by_head.items()


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    ruled = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in ruled)


def _plain(text: str) -> str:
    """Return text that Markdown shows as it is, in one line."""
    return re.sub(r"([\\`*_\[\]<>|#~$&])", r"\\\1", " ".join(str(text).split()))


def _values(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return [f"{name} {ends}" for name, ends in value.items()]
    return list(value) if isinstance(value, list | tuple) else [value]


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _number(value: Any) -> float | None:
    """Return a finite number as it is, else None: a stranger's metrics may be anything."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _fraction(value: Any) -> str:
    number = _number(value)
    return "-" if number is None else f"{number:.3f}"
