"""CVAT for images 1.1: annotations.xml; its "Segmentation mask" has PASCAL VOC's layout."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from xml.etree import ElementTree
from xml.parsers import expat

import numpy as np

from fullconv.base.errors import FullconvError
from fullconv.base.files import write_text
from fullconv.base.fill import Ring, as_ring
from fullconv.base.progress import Reporter
from fullconv.datasets.formats.annotated import (
    AnnotatedImage,
    Ellipse,
    Line,
    Outline,
    Pixels,
    Polygons,
    Region,
    Source,
    left_out,
    rectangle,
)
from fullconv.datasets.formats.draft import Draft, rounded
from fullconv.datasets.formats.files import ImageIndex, Place, split_in, split_of
from fullconv.datasets.formats.pixels import row_runs_mask

NAME = "CVAT for images 1.1"
_SHAPES = ("polygon", "box", "mask", "ellipse", "polyline", "points")
_HEAD = 4096  # bytes, within which its XML tells itself
_LINE_WIDTH = 1  # pixels


@dataclass
class _Annotations:
    """What one XML file says."""

    path: Path
    colours: dict[str, str] = field(default_factory=dict)  # by the name of the label
    images: list[tuple[dict[str, str], list[tuple[str, dict[str, str]]]]] = field(
        default_factory=list
    )
    others: dict[str, list[str]] = field(default_factory=dict)  # labels of what has no pixels


def recognise(place: Place, reporter: Reporter) -> Source | None:  # noqa: ARG001
    """Recognise XML whose root is `annotations`, with images."""
    files = [_parsed(path) for path in place.files(".xml") if _is_cvat(path)]
    if not files:
        return None
    colours = {name: colour for file in files for name, colour in file.colours.items()}
    used = (shape["label"] for file in files for _, shapes in file.images for _, shape in shapes)
    return Source(
        NAME,
        place.root,
        tuple(dict.fromkeys((*colours, *used))),
        sum(len(file.images) for file in files),
        partial(_read, place.root, files),
        overlap="later",
        palette={name: rgb for name, text in colours.items() if (rgb := _colour(text))},
        notes=_notes(files),
    )


def _notes(files: Sequence[_Annotations]) -> tuple[str, ...]:
    """Tell of cuboids and tags, which have no pixels."""
    labels: dict[str, list[str]] = defaultdict(list)
    for file in files:
        for kind, names in file.others.items():
            labels[kind] += names
    return left_out(labels)


def write(drafts: Iterable[Draft], classes: Sequence[str], folder: Path) -> None:
    """Write annotations.xml, whose larger polygons lie below the smaller ones."""
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    labels = ElementTree.SubElement(
        ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "task"), "labels"
    )
    for name in classes:
        label = ElementTree.SubElement(labels, "label")
        ElementTree.SubElement(label, "name").text = name
    for at, draft in enumerate(drafts):
        height, width = map(str, draft.size)
        name = f"{draft.name}{draft.path.suffix}"
        about = {"id": str(at), "name": name, "width": width, "height": height}
        image = ElementTree.SubElement(root, "image", about)
        for order, region in enumerate(draft.regions):
            points = ";".join(f"{x:g},{y:g}" for x, y in rounded(region.rim))
            shape = {"label": region.name, "source": "auto", "occluded": "0"}
            shape |= {"points": points, "z_order": str(order)}
            ElementTree.SubElement(image, "polygon", shape)
    text = ElementTree.tostring(root, encoding="unicode", xml_declaration=True)
    write_text(folder / "annotations.xml", text)


def _is_cvat(path: Path) -> bool:
    with path.open("rb") as file:
        return b"<annotations" in file.read(_HEAD)


def _parsed(path: Path) -> _Annotations:
    """Read the XML, in which no entities may be declared.

    Raises:
        FullconvError: it is damaged, or declares entities.
    """
    found = _Annotations(path)
    inside: list[str] = []
    words: dict[str, str] = {}

    def start(name: str, attributes: dict[str, str]) -> None:
        inside.append(name)
        if name == "image":
            found.images.append((attributes, []))
        elif name in _SHAPES and "image" in inside:
            found.images[-1][1].append((name, {"label": "", **attributes}))
        elif inside[-2:-1] == ["image"] and "label" in attributes:
            found.others.setdefault(f"{name}s", []).append(attributes["label"])
        elif name == "label":
            words.clear()

    def text(more: str) -> None:
        if inside[-2:-1] == ["label"]:  # its attributes have names, too
            words[inside[-1]] = words.get(inside[-1], "") + more

    def end(name: str) -> None:
        inside.pop()
        if name == "label" and inside[-1:] == ["labels"]:
            found.colours[words.get("name", "").strip()] = words.get("color", "").strip()

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = text
    _parse(path, parser)
    return found


def _parse(path: Path, parser: expat.XMLParserType) -> None:
    def refuse(*_: object) -> None:
        raise FullconvError(f"{path}: declares entities, which CVAT doesn't; export it again")

    parser.EntityDeclHandler = refuse
    try:
        with path.open("rb") as file:
            parser.ParseFile(file)
    except expat.ExpatError as error:
        raise FullconvError(f"{path}: is damaged XML ({error}); export it again") from None


def _colour(text: str) -> tuple[int, int, int] | None:
    try:
        value = int(text.removeprefix("#"), 16)
    except ValueError:
        return None
    return (value >> 16 & 255, value >> 8 & 255, value & 255)


def _read(root: Path, files: Sequence[_Annotations]) -> Iterator[AnnotatedImage]:
    index = ImageIndex(root)
    for file in files:
        for about, shapes in file.images:
            split = split_of([about.get("subset", "")]) or split_in(file.path.stem)
            image = index.find(about.get("name", ""), file.path.parent, split)
            height, width = about.get("height", ""), about.get("width", "")
            size = (int(height), int(width)) if height.isdigit() and width.isdigit() else None
            read = partial(_regions, shapes)
            common = (index.name(image.path), image.path, file.path)
            yield AnnotatedImage(*common, read, size=size, split=split, found=image)


def _regions(shapes: Sequence[tuple[str, Mapping[str, str]]]) -> list[Region]:
    ordered = sorted(shapes, key=lambda shape: int(shape[1].get("z_order", 0)))
    return [Region(shape["label"], _outline(kind, shape)) for kind, shape in ordered]


def _outline(kind: str, shape: Mapping[str, str]) -> Outline:
    def numbers(*names: str) -> list[float]:
        return [float(shape[name]) for name in names]

    if kind == "polygon":
        return Polygons([[as_ring(_points(shape["points"]))]])
    if kind == "box" and not float(shape.get("rotation", 0)):
        return rectangle(*numbers("xtl", "ytl", "xbr", "ybr"))
    if kind == "ellipse" and not float(shape.get("rotation", 0)):
        return Ellipse(*numbers("cx", "cy", "rx", "ry"))
    if kind == "polyline":
        return Line(_points(shape["points"]), _LINE_WIDTH)
    if kind == "mask":
        left, top, width, height = (
            round(each) for each in numbers("left", "top", "width", "height")
        )
        runs = [int(each) for each in shape["rle"].split(",")]
        return Pixels(lambda _: row_runs_mask(runs, (height, width)), top, left)
    turned = "turned " if "rotation" in shape else ""
    raise ValueError(f"a {turned}{kind}, which has no known pixels")


def _points(text: str) -> Ring:
    return np.array([each.split(",") for each in text.split(";")], np.float64)
