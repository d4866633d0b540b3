"""From a model to a verified file that runs without fullconv: what every front end calls."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from fullconv.base.errors import FullconvError, WorkFailedError, nearest
from fullconv.base.images import ImageReader
from fullconv.base.progress import SILENT, Reporter
from fullconv.data.folder import DatasetFolder, Split
from fullconv.export import int8
from fullconv.export.attempt import Attempt, Data, QuantisedAttempt
from fullconv.export.formats import FORMATS, ONNX, Format
from fullconv.export.metadata import ExportMetadata, Output, Precision
from fullconv.export.noted import note
from fullconv.export.web import GRAPH, WEB, add_page, require_photos, require_place, site, size_of
from fullconv.export.web_runtime import runtime_files
from fullconv.measure.evaluation import split_for
from fullconv.net.fcn import FCN, load

PRECISIONS: tuple[Precision, ...] = get_args(Precision)
OUTPUTS: tuple[Output, ...] = get_args(Output)


@dataclass(frozen=True)
class ExportSettings:
    """What to export, and how.

    Attributes:
        model: a model folder, a Hub id, or a net.
        format: "onnx", "openvino", or "web": a page that labels photos in the browser.
        out: the file to write; of a page, its folder.
        precision: "fp32", "fp16" (weights alone) or "int8"; None: fp16 for pages, which are fetched
            over networks and whose labels are the same but for one in a thousand; else fp32.
        output: "labels", "scores" or "probabilities".
        data: dataset folder to verify the file on, and to calibrate int8 with; None: images are
            made up.
        reader: reads its images.
        trust: whether the model may cost what it may (see `fullconv.load`).
        runtime: of a page, what runs the net (see `runtime_files`).
    """

    model: str | Path | FCN
    format: str
    out: Path
    precision: Precision | None = None
    output: Output = "labels"
    data: Path | None = None
    reader: ImageReader = ImageReader()
    trust: bool = False
    runtime: Path | None = None

    @property
    def chosen_precision(self) -> Precision:
        """The precision that was asked for, or the format's own."""
        return self.precision or ("fp16" if self.format == WEB else "fp32")


@dataclass(frozen=True)
class ExportedFile:
    """What was written.

    Attributes:
        path: of the file.
        beside: files that belong to it, and go where it goes.
        about: what it says of itself, its verification included.
        size: of all of them, in bytes.
    """

    path: Path
    beside: tuple[Path, ...]
    about: ExportMetadata
    size: int


def export(settings: ExportSettings, reporter: Reporter = SILENT) -> ExportedFile:
    """Write a model as a file that runs without fullconv, once it is known to be the same net.

    It is run by its own runtime, and compared with the net in torch and float32.

    Args:
        settings: what to do.
        reporter: is told how the work goes.

    Raises:
        FullconvError: the model, the dataset or the format isn't there, or they don't fit.
        WorkFailedError: the net can't be converted, or the file is not the same net; the message
            names the image and the stage where they part. Nothing was written then.
        OSError: the file can't be written.
    """
    if settings.format == WEB:
        return _export_site(settings, reporter)
    form = _checked(settings)
    out = form.place(settings.out)
    net = settings.model if isinstance(settings.model, FCN) else _loaded(settings)
    data = _data(net, settings)
    about = ExportMetadata.of(net, settings.output, settings.chosen_precision)
    _require_distinct_names(about)
    with _beside(out) as folder:
        kind = Attempt if about.precision != "int8" else QuantisedAttempt
        attempt = kind(net, form, about, folder, data, reporter=reporter)
        verified = attempt.verified(out)
        path = folder / out.name
        form.save(attempt.graph(net), verified, path)
        files = [path, *(path.with_suffix(suffix) for suffix in form.beside)]
        size = sum(each.stat().st_size for each in files)
        for each in reversed(files):  # the one that is asked for comes last
            each.replace(out.with_name(each.name))
    beside = tuple(out.with_suffix(suffix) for suffix in form.beside)
    done = ExportedFile(out, beside, verified, size)
    if not isinstance(settings.model, FCN):
        note(Path(settings.model), form.name, out, verified, size)
    return done


def _export_site(settings: ExportSettings, reporter: Reporter) -> ExportedFile:
    """Write a folder with the net's labels as ONNX, and the page that shows them."""
    if settings.output != "labels":
        raise FullconvError(f"format web is a page of labels, not of {settings.output}")
    require_place(settings.out)
    ONNX.require_installed()
    runtime = runtime_files(settings.runtime, reporter)
    net = settings.model if isinstance(settings.model, FCN) else _loaded(settings)
    require_photos(net)
    with site(settings.out) as folder:
        precision = settings.chosen_precision
        graph = replace(
            settings, model=net, format=ONNX.name, out=folder / GRAPH, precision=precision
        )
        try:
            about = export(graph, reporter).about
        except WorkFailedError as error:  # the folder will be gone
            told = str(error).replace(str(folder / GRAPH), str(settings.out))
            raise WorkFailedError(told) from error
        add_page(folder, net, about, runtime)
        size = size_of(folder)
    if not isinstance(settings.model, FCN):
        note(Path(settings.model), WEB, settings.out, about, size)
    return ExportedFile(settings.out, (), about, size)


def _checked(settings: ExportSettings) -> Format:
    """Refuse what can't be asked for, before any work."""
    asked = (
        ("format", settings.format, (*FORMATS, WEB)),
        ("precision", settings.chosen_precision, PRECISIONS),
        ("output", settings.output, OUTPUTS),
    )
    for what, value, known in asked:
        if value not in known:
            raise FullconvError(
                f"{what} {value!r} is none of {', '.join(known)}{nearest(value, known)}"
            )
    form = FORMATS[settings.format]
    form.require_installed()
    if settings.precision == "int8":
        if settings.data is None:
            raise FullconvError("precision int8 needs images to calibrate with: give --data DIR")
        if not int8.is_installed():
            raise FullconvError("precision int8 needs nncf: pip install 'fullconv[quantize]'")
    return form


def _loaded(settings: ExportSettings) -> FCN:
    assert not isinstance(settings.model, FCN)
    return load(settings.model, trust=settings.trust)


def _data(net: FCN, settings: ExportSettings) -> Data | None:
    """Return the images of a dataset, those for each purpose, if one was given."""
    if settings.data is None:
        return None
    folder = DatasetFolder(settings.data, settings.reader)

    def first(*names: str) -> Split:
        name = next((each for each in names if each in folder.splits), folder.splits[0])
        return split_for(net, folder, name)

    return Data(first("train"), first("val", "test"), first("test", "val"))


def _require_distinct_names(about: ExportMetadata) -> None:
    """Refuse a net of which an input and a head have one name: a graph can't tell them apart."""
    both = set(about.input_names) & set(about.output_names)
    if both:
        raise FullconvError(
            f"an input and a head are both called {min(both)!r}, which a graph can't tell apart: "
            "rename one in the model's config.json"
        )


@contextmanager
def _beside(out: Path) -> Iterator[Path]:
    """Yield a folder on the disk of `out`, which is removed with all that is in it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder:
        yield Path(folder)
