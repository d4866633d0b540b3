"""An export that is to be verified: the graph, by its own runtime, against the net in torch."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fullconv.base.errors import FullconvError, WorkFailedError, one_line
from fullconv.base.progress import Reporter
from fullconv.data.folder import Split
from fullconv.export.agreement import (
    LIMITS,
    Compared,
    DisagreementError,
    compare,
    first_apart,
    scores_nothing,
    with_random_scores,
)
from fullconv.export.formats import Format
from fullconv.export.int8 import calibration_split, quantised
from fullconv.export.metadata import Agreement, ExportMetadata, Output
from fullconv.export.opened import OpenedExport, parts_of, start
from fullconv.export.samples import Sample, generated
from fullconv.export.whole import Stages, WholeNet
from fullconv.measure.evaluation import evaluate, evaluate_labels
from fullconv.net.fcn import FCN

FEW = 8  # images of a dataset whose labels are compared one by one
MANY = 250  # of which mean IU is measured
MOST_LOST = 0.005  # of mean IU by int8, before layers are left in float


@dataclass(frozen=True)
class Data:
    """The images of a dataset, by what they are for.

    Attributes:
        calibration: "train", if there is one.
        choice: what layers to leave in float is decided on: "val" or, without, "test".
        verification: what is told of: "test" or, without, "val".
    """

    calibration: Split
    choice: Split
    verification: Split


class Attempt:
    """An export that is to be verified."""

    def __init__(
        self,
        net: FCN,
        form: Format,
        about: ExportMetadata,
        folder: Path,
        data: Data | None,
        *,
        reporter: Reporter,
    ) -> None:
        """Prepare.

        Args:
            net: on the CPU.
            form: what to write.
            about: what the file will say of itself, but for its verification.
            folder: for files meanwhile.
            data: a dataset's images.
            reporter: is told how the work goes.
        """
        self._form, self._about, self._folder, self._data = form, about, folder, data
        self._reporter = reporter
        self._random = scores_nothing(net)
        self._net = with_random_scores(net) if self._random else net

    def graph(self, net: FCN, output: Output | None = None) -> Any:
        """Return the graph of a net in the format that was asked for."""
        try:
            form, asked = self._form, output or self._about.output
            return form.convert(WholeNet(net, asked, form.best, resizes=form.resizes))
        except Exception as error:  # converters raise what they like
            raise WorkFailedError(
                f"this net can't be written as {self._form.name}: {one_line(error)}"
            ) from error

    def verified(self, out: Path) -> ExportMetadata:
        """Compare the export with its net, and return what the file is to say of itself.

        Args:
            out: where it will be written; for people.

        Raises:
            WorkFailedError: it is another net; the message names the image and the stage.
        """
        try:
            export, found = self._checked()
        except DisagreementError as error:
            where = self._where(error.sample)
            raise WorkFailedError(
                f"{out}: was not written, since it is not the same net: {error}{where}"
            ) from error
        except FullconvError as error:
            raise WorkFailedError(f"{out}: was not written: {error}") from error
        split = self._data.verification if self._data and not self._random else None
        agreement = Agreement(
            runtime=export.runtime,
            images=found.images,
            source="data" if self._data else "generated",
            labels=found.labels,
            margin=LIMITS[self._about.precision].margin,
            scores=found.scores,
            random_scores=self._random,
            mean_iu=self._mean_iu(export, split) if split else None,
            mean_iu_of_net=self._mean_iu_of_net(split) if split else None,
        )
        return self._about.model_copy(update={"verification": agreement})

    def _checked(self) -> tuple[OpenedExport, Compared]:
        samples = [*generated(self._net), *(_of_data(self._data) if self._data else ())]
        export = self._opened("labels", self._about.output)
        found = self._compared(export, samples)
        if self._about.output == "labels":  # the same graph, before its argmax
            scores = self._compared(self._opened("scores", "scores"), samples).scores
            found = Compared(found.images, found.labels, scores)
        return export, found

    def _compared(self, export: OpenedExport, samples: Sequence[Sample]) -> Compared:
        return compare(self._net, export, samples, LIMITS[self._about.precision])

    def _opened(self, name: str, output: Output) -> OpenedExport:
        path = self._folder / f"{name}.candidate{self._form.suffix}"
        about = self._about.model_copy(update={"output": output})
        self._form.save(self.graph(self._net, output), about, path)
        return OpenedExport(path)

    def _mean_iu(self, export: OpenedExport, split: Split) -> float:
        few = split.few(MANY)
        with self._reporter.bar(len(few), "verify") as bar:
            return evaluate_labels(export, few, export.label, bar).mean_iu

    @functools.cache  # noqa: B019
    def _mean_iu_of_net(self, split: Split) -> float:
        few = split.few(MANY)
        with self._reporter.bar(len(few), "verify") as bar:
            return evaluate(self._net, few, bar=bar).mean_iu

    def _where(self, sample: Sample) -> str:
        """Return a clause that names the first stage where the export parts from the net.

        Where a layer fails, OpenVINO may tell nobody, and leave all outputs as they were: empty.
        """
        module = Stages(self._net)
        path = self._folder / f"stages{self._form.suffix}"
        self._form.save(self._form.convert(Stages(self._net)), self._about, path)
        session = start(path, 1, torch.get_num_threads())
        given = parts_of(sample.images, self._net.inputs, session.kinds)
        with torch.no_grad():
            expected = [each.numpy() for each in module(*map(torch.from_numpy, given))]
        found = [np.asarray(each) for each in session(given)]
        if not all(each.size for each in found):
            return f"; {session.runtime} works out nothing of it"
        stage = first_apart(
            dict(zip(module.stages, expected, strict=True)),
            dict(zip(module.stages, found, strict=True)),
            LIMITS[self._about.precision].scores,
        )
        return f"; they part at {stage or 'the argmax'}"


class QuantisedAttempt(Attempt):
    """An export in int8: verified on data alone, since nobody labels noise.

    Where it loses too much mean IU, those groups of layers that it gains most by stay in float.
    """

    _in_float: tuple[str, ...] = ()
    _made: tuple[tuple[str, ...], Any] | None = None  # the last one, and its layers in float
    _one_by_one = True  # whether NNCF is to correct biases so: false once it could not

    def graph(self, net: FCN, output: Output | None = None) -> Any:
        """Return the graph in int8."""
        if self._made is None or self._made[0] != self._in_float:
            self._made = self._in_float, self._quantised(net, output)
        return self._made[1]

    def _quantised(self, net: FCN, output: Output | None) -> Any:
        """Return a graph whose biases are corrected one by one, or else all at once."""
        graph = super().graph(net, output)
        layers, one_by_one = self._form.layers(graph), self._one_by_one
        left = [name for group in self._in_float for name in layers.groups()[group]]
        try:
            return quantised(graph, layers, self._calibration, left, one_by_one=one_by_one)
        except Exception as error:  # NNCF raises what it likes
            if not one_by_one:
                raise WorkFailedError(f"this net can't be quantised: {one_line(error)}") from error
            self._one_by_one = False  # nor for the attempts to come
            self._reporter.warn(f"int8: biases are corrected all at once ({one_line(error)})")
            return self._quantised(net, output)

    @functools.cached_property
    def _calibration(self) -> list[Mapping[str, NDArray[Any]]]:
        assert self._data is not None
        split = calibration_split(self._data.calibration)
        names, inputs = self._about.input_names, self._about.inputs
        kinds = [each.numpy().dtype for each in WholeNet(self._net, "labels").examples()]
        return [
            dict(zip(names, parts_of(split[index].image[None], inputs, kinds), strict=True))
            for index in range(len(split))
        ]

    def _checked(self) -> tuple[OpenedExport, Compared]:
        assert self._data is not None
        if self._random:
            raise FullconvError("its net scores nothing yet: train it before it is quantised")
        export = self._frugal(self._data.choice)
        self._about = self._about.model_copy(update={"float_layers": self._in_float})
        return export, self._compared(export, list(_of_data(self._data)))

    def _frugal(self, split: Split) -> OpenedExport:
        """Return the export with as few groups of layers in float as mean IU demands."""
        lost, export = self._tried((), split)
        if lost <= MOST_LOST or lost != lost:  # noqa: PLR0124 (nothing to measure)
            return export
        self._reporter.say(
            f"int8 loses {lost:.4f} of mean IU: looking for layers to leave in float"
        )
        groups = self._form.layers(super().graph(self._net)).groups()
        alone = {name: self._tried((name,), split)[0] for name in groups}
        best = sorted(groups, key=alone.__getitem__)
        for count in range(1, len(best) + 1):
            lost, export = self._tried(tuple(sorted(best[:count], key=list(groups).index)), split)
            if lost <= MOST_LOST:
                break
        return export

    def _tried(self, in_float: tuple[str, ...], split: Split) -> tuple[float, OpenedExport]:
        """Return what an export loses of mean IU with some groups of layers in float."""
        self._in_float = in_float
        export = self._opened("labels", self._about.output)
        return self._mean_iu_of_net(split) - self._mean_iu(export, split), export

    def _where(self, sample: Sample) -> str:  # noqa: ARG002
        return ""  # rounding moves every stage


def _of_data(data: Data) -> Iterator[Sample]:
    few = data.verification.few(FEW)
    for index in range(len(few)):
        name, image, _ = few[index]
        yield Sample(name, image[None])
