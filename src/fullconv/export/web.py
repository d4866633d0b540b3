"""A folder that any static host can serve: a page that labels photos in the browser.

The page itself is package data, in `page/`; `fullconv serve` has the same one, with the net on the
server. What tells them apart is `model.json` beside it (`description`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import lcm
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fullconv.base.errors import FullconvError
from fullconv.base.files import write_json
from fullconv.export.metadata import ExportMetadata

if TYPE_CHECKING:
    from fullconv.geometry import SkipGeometry
    from fullconv.net.fcn import FCN

WEB = "web"  # the format's name
PAGE = Path(__file__).with_name("page")
GRAPH = "model.onnx"
DESCRIPTION = "model.json"
RUNTIME = "ort"  # the folder of what runs the net
WORKER = "sw.js"
OWN = frozenset({"index.html", DESCRIPTION, GRAPH, WORKER})  # by which a site is known

SEEN = 512  # coarsest cells of an image that is long enough to see how far labels depend on pixels


def page_files() -> dict[str, bytes]:
    """Return the page's own files by name, its model.json and what runs a net left out."""
    return {path.name: path.read_bytes() for path in sorted(PAGE.iterdir()) if path.is_file()}


def description(about: ExportMetadata, **more: Any) -> dict[str, Any]:
    """Return what `model.json` tells the page.

    Args:
        about: what is exported or served.
        more: ``backend="local"``, with the graph's ``file``, its ``bytes``, and ``tile`` (see
            `tile_of`); or ``backend="server"``, with the ``endpoint`` to which photos are posted,
            relative to the page.
    """
    heads = [
        {
            "name": name,
            "output": output,
            "classes": list(head.classes),
            "palette": [list(colour) for colour in head.palette],
            "ignore_index": head.ignore_index,
        }
        for (name, head), output in zip(about.heads.items(), about.output_names, strict=True)
    ]
    return {"format": 1, "title": f"FCN-{about.stride}s", "heads": heads, **more}


def tile_of(net: FCN) -> dict[str, int] | None:
    """Return how images too large for a browser's memory are divided so that no label changes.

    Returns:
        In pixels: tiles begin at multiples of `align`, and reach `before` and `after` the labels
        that are taken of them. None where a layer depends on the whole image.
    """
    sides = [_reach(geometry) for geometry in (net.vertical, net.horizontal)]
    if None in sides:
        return None
    align, before, after = zip(*(side for side in sides if side), strict=True)
    return {"align": lcm(*align), "before": max(before), "after": max(after)}


def _reach(geometry: SkipGeometry) -> tuple[int, int, int] | None:
    """Return the coarsest stride, and how far before and after it a label depends on pixels."""
    stride = int(geometry.grids[0].stride)
    size = SEEN * stride
    places = range(size // 2, size // 2 + stride)
    seen = [geometry.pixels_seen(place, size) for place in places]
    ends = [pair for pair in seen if pair is not None]
    if len(ends) < len(seen):
        return None
    before = max(place - first for place, (first, _) in zip(places, ends, strict=True))
    after = max(last - place for place, (_, last) in zip(places, ends, strict=True))
    return stride, before, after


def require_photos(net: FCN) -> None:
    """Raise FullconvError for a net that does not label photos alone."""
    if list(net.inputs.values()) != [3]:
        told = ", ".join(f"{name} ({channels})" for name, channels in net.inputs.items())
        raise FullconvError(
            f"format web is for nets of one photo, RGB; this net's inputs are {told}: "
            "use --format onnx"
        )


def require_place(out: Path) -> None:
    """Raise FullconvError where a site would replace something else."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not out.is_dir() or not all((out / name).is_file() for name in OWN):
        raise FullconvError(f"{out}: is there and no site of fullconv's; choose another folder")


@contextmanager
def site(out: Path) -> Iterator[Path]:
    """Yield a folder that becomes `out` when the body is done; what was there before is replaced.

    Raises:
        FullconvError: something else is there.
        OSError: it can't be written.
    """
    require_place(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as hidden:
        made = Path(hidden) / "new"
        made.mkdir()
        yield made
        if out.exists():
            out.replace(Path(hidden) / "old")
        made.replace(out)


def add_page(folder: Path, net: FCN, about: ExportMetadata, runtime: Mapping[str, bytes]) -> None:
    """Put the page beside the graph `model.onnx` of a net.

    Args:
        folder: of the site, with the graph in it.
        net: that was exported.
        about: what the export says of itself.
        runtime: what `runtime_files` returns.
    """
    graph = folder / GRAPH
    about_graph = {"file": GRAPH, "bytes": graph.stat().st_size, "tile": tile_of(net)}
    write_json(folder / DESCRIPTION, description(about, backend="local", **about_graph))
    (folder / RUNTIME).mkdir()
    for name, content in runtime.items():  # many hosts don't know that .mjs is JavaScript
        (folder / RUNTIME / name.replace(".mjs", ".js")).write_bytes(content)
    for name, content in page_files().items():
        (folder / name).write_bytes(content)


def size_of(folder: Path) -> int:
    """Return the bytes of all files of a site."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
