"""From a model to a verified file that runs without fullconv: what every front end calls."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from fullconv.base.errors import FullconvError, WorkFailedError, nearest, one_line
from fullconv.base.images import ImageReader
from fullconv.base.progress import SILENT, Reporter
from fullconv.data.folder import DatasetFolder, Split
from fullconv.export.agreement import (
    LIMITS,
    Compared,
    DisagreementError,
    compare,
    first_apart,
    scores_nothing,
    with_random_scores,
)
from fullconv.export.formats import FORMATS, ONNX, Format
from fullconv.export.metadata import Agreement, ExportMetadata, Output, Precision
from fullconv.export.noted import note
from fullconv.export.opened import OpenedExport, parts_of, start
from fullconv.export.samples import Sample, generated
from fullconv.export.web import GRAPH, WEB, add_page, require_photos, require_place, site, size_of
from fullconv.export.web_runtime import runtime_files
from fullconv.export.whole import Stages, WholeNet
from fullconv.measure.evaluation import evaluate, evaluate_labels, split_for
from fullconv.net.fcn import FCN, load

PRECISIONS: tuple[Precision, ...] = get_args(Precision)
OUTPUTS: tuple[Output, ...] = get_args(Output)
FEW = 8  # images of a dataset whose labels are compared one by one
MANY = 250  # of which mean IU is measured


@dataclass(frozen=True)
class Settings:
    """What to export, and how.

    Attributes:
        model: a model folder, a Hub id, or a net.
        format: "onnx", "openvino", or "web": a page that labels photos in the browser.
        out: the file to write; of a page, its folder.
        precision: "fp32", "fp16" (weights alone) or "int8".
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
    precision: Precision = "fp32"
    output: Output = "labels"
    data: Path | None = None
    reader: ImageReader = ImageReader()
    trust: bool = False
    runtime: Path | None = None


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


def export(settings: Settings, reporter: Reporter = SILENT) -> ExportedFile:
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
    split = _split(net, settings)
    about = ExportMetadata.of(net, settings.output, settings.precision)
    _require_distinct_names(about)
    with _beside(out) as folder:
        attempt = _Attempt(net, form, about, folder, split)
        verified = about.model_copy(update={"verification": attempt.verified(out, reporter)})
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


def _export_site(settings: Settings, reporter: Reporter) -> ExportedFile:
    """Write a folder with the net's labels as ONNX, and the page that shows them."""
    if settings.output != "labels":
        raise FullconvError(f"format web is a page of labels, not of {settings.output}")
    require_place(settings.out)
    ONNX.require_installed()
    runtime = runtime_files(settings.runtime, reporter)
    net = settings.model if isinstance(settings.model, FCN) else _loaded(settings)
    require_photos(net)
    with site(settings.out) as folder:
        graph = replace(settings, model=net, format=ONNX.name, out=folder / GRAPH)
        about = export(graph, reporter).about
        add_page(folder, net, about, runtime)
        size = size_of(folder)
    if not isinstance(settings.model, FCN):
        note(Path(settings.model), WEB, settings.out, about, size)
    return ExportedFile(settings.out, (), about, size)


def _checked(settings: Settings) -> Format:
    """Refuse what can't be asked for, before any work."""
    asked = (
        ("format", settings.format, (*FORMATS, WEB)),
        ("precision", settings.precision, PRECISIONS),
        ("output", settings.output, OUTPUTS),
    )
    for what, value, known in asked:
        if value not in known:
            raise FullconvError(
                f"{what} {value!r} is none of {', '.join(known)}{nearest(value, known)}"
            )
    if settings.precision == "int8":
        raise FullconvError("precision int8 is not supported yet; use --precision fp16")
    form = FORMATS[settings.format]
    form.require_installed()
    return form


def _loaded(settings: Settings) -> FCN:
    assert not isinstance(settings.model, FCN)
    return load(settings.model, trust=settings.trust)


def _split(net: FCN, settings: Settings) -> Split | None:
    """Return the images of a dataset that training has not seen, if there are such."""
    if settings.data is None:
        return None
    folder = DatasetFolder(settings.data, settings.reader)
    name = next((each for each in ("test", "val") if each in folder.splits), "train")
    return split_for(net, folder, name)


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


class _Attempt:
    """An export that is to be verified."""

    def __init__(
        self, net: FCN, form: Format, about: ExportMetadata, folder: Path, split: Split | None
    ) -> None:
        self._form, self._about, self._folder, self._split = form, about, folder, split
        self._random = scores_nothing(net)
        self._net = with_random_scores(net) if self._random else net

    def graph(self, net: FCN, output: Output | None = None) -> Any:
        """Return the graph of a net in the format that was asked for."""
        try:
            return self._form.convert(WholeNet(net, output or self._about.output))
        except Exception as error:  # converters raise what they like
            raise WorkFailedError(
                f"this net can't be written as {self._form.name}: {one_line(error)}"
            ) from error

    def verified(self, out: Path, reporter: Reporter) -> Agreement:
        """Compare the export with its net; raises WorkFailedError where it is another."""
        samples = [*generated(self._net), *(_of_data(self._split) if self._split else ())]
        try:
            export = self._opened("labels", self._about.output)
            found = self._compared(export, samples)
            scores = found.scores
            if self._about.output == "labels":  # the same graph, before its argmax
                scores = self._compared(self._opened("scores", "scores"), samples).scores
        except DisagreementError as error:
            where = self._where(error.sample)
            raise WorkFailedError(
                f"{out}: was not written, since it is not the same net: {error}{where}"
            ) from error
        except FullconvError as error:
            raise WorkFailedError(f"{out}: was not written: {error}") from error
        mean_iu, of_net = self._mean_iu(export, reporter)
        return Agreement(
            runtime=export.runtime,
            images=found.images,
            source="data" if self._split else "generated",
            labels=found.labels,
            margin=LIMITS[self._about.precision].margin,
            scores=scores,
            random_scores=self._random,
            mean_iu=mean_iu,
            mean_iu_of_net=of_net,
        )

    def _compared(self, export: OpenedExport, samples: Sequence[Sample]) -> Compared:
        return compare(self._net, export, samples, LIMITS[self._about.precision])

    def _opened(self, name: str, output: Output) -> OpenedExport:
        path = self._folder / f"{name}.candidate{self._form.suffix}"
        about = self._about.model_copy(update={"output": output})
        self._form.save(self.graph(self._net, output), about, path)
        return OpenedExport(path)

    def _mean_iu(
        self, export: OpenedExport, reporter: Reporter
    ) -> tuple[float | None, float | None]:
        """Return that of the export and of the net on the data; None without any."""
        if self._split is None or self._random:
            return None, None
        split = self._split.few(MANY)
        with reporter.bar(2 * len(split), "verify") as bar:
            own = evaluate_labels(export, split, export.label, bar).mean_iu
            return own, evaluate(self._net, split, bar=bar).mean_iu

    def _where(self, sample: Sample) -> str:
        """Return a clause that names the first stage where the export parts from the net."""
        module = Stages(self._net)
        path = self._folder / f"stages{self._form.suffix}"
        self._form.save(self._form.convert(Stages(self._net)), self._about, path)
        session = start(path, 1, torch.get_num_threads())
        given = parts_of(sample.images, self._net.inputs, session.kinds)
        with torch.no_grad():
            expected = [each.numpy() for each in module(*map(torch.from_numpy, given))]
        found = [np.asarray(each) for each in session(given)]
        stage = first_apart(
            dict(zip(module.stages, expected, strict=True)),
            dict(zip(module.stages, found, strict=True)),
            LIMITS[self._about.precision].scores,
        )
        return f"; they part at {stage or 'the argmax'}"


def _of_data(split: Split) -> Iterator[Sample]:
    few = split.few(FEW)
    for index in range(len(few)):
        name, image, _ = few[index]
        yield Sample(name, image[None])
