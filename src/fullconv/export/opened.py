"""An exported file, opened: it labels images by its own runtime, and knows what it labels."""

from __future__ import annotations

import queue
import threading
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from fullconv.base.errors import FullconvError, one_line
from fullconv.base.runtime import thread_count
from fullconv.export.metadata import KEY, ExportedHead, ExportMetadata
from fullconv.export.openvino_core import core, import_openvino
from fullconv.net.described import Pixels
from fullconv.net.preprocessing import Preprocessing

SUFFIXES = {".onnx": "onnxruntime", ".xml": "openvino"}  # and what runs such files
EXTRAS = {"onnxruntime": "onnx", "openvino": "openvino"}  # which installs it


def is_export(model: object) -> bool:
    """Tell whether a model that a user named is an exported file, by its suffix."""
    return isinstance(model, str | Path) and Path(model).suffix.lower() in SUFFIXES


class Session(Protocol):
    """A graph in a runtime that is ready; any thread may ask.

    Attributes:
        about: the JSON that the file holds of itself; None if it holds none.
        kinds: of each input's values.
        runtime: and its version.
    """

    about: str | None
    kinds: tuple[np.dtype[Any], ...]
    runtime: str

    def __call__(self, images: Sequence[Pixels]) -> Sequence[NDArray[Any]]:
        """Return the outputs for the images of each input, N x H x W x C."""


class OpenedExport:
    """An exported file that is ready to work; several threads may ask at once.

    Attributes:
        path: of the file.
        about: what it says of itself.
        at_once: how many images are worked on side by side.
    """

    def __init__(self, path: Path, *, at_once: int = 1, threads: int | None = None) -> None:
        """Open a file.

        Args:
            path: an .onnx, or an .xml with its .bin beside it.
            at_once: how many images are worked on side by side at most.
            threads: of all of them together; None: as many as torch would use.

        Raises:
            FullconvError: it is not there, can't be read or is none of ours, or what runs it is
                not installed.
        """
        self.path, self.at_once = path, at_once
        self._session = start(path, at_once, threads or thread_count())
        self.about = _read(path, self._session.about)

    @property
    def runtime(self) -> str:
        """What runs it, and its version."""
        return self._session.runtime

    @property
    def inputs(self) -> Mapping[str, int]:
        """Channels of each input by name."""
        return self.about.inputs

    @property
    def heads(self) -> Mapping[str, ExportedHead]:
        """What each head labels, by name."""
        return self.about.heads

    @property
    def ignore_index(self) -> int:
        """The label id that training and metrics leave out."""
        return self.about.ignore_index

    @cached_property
    def preprocessing(self) -> Preprocessing:
        """What the graph does with the images; its `reader` reads them as the net's."""
        return Preprocessing.from_dict(self.about.preprocessing)

    def outputs(self, images: Pixels) -> dict[str, NDArray[Any]]:
        """Return what the graph gives, by head: labels, scores or probabilities (`about.output`).

        Raises:
            FullconvError: as `run`.
        """
        return dict(zip(self.heads, self.run(images), strict=True))

    def run(self, images: Pixels) -> Sequence[NDArray[Any]]:
        """Return the graph's outputs in order.

        Args:
            images: N x H x W x channels of all inputs in order, uint8 or float32.

        Raises:
            FullconvError: the images have other channels, or the runtime fails.
        """
        channels = sum(self.inputs.values())
        if images.ndim != 4 or images.shape[3] != channels or not images.size:
            raise FullconvError(f"images must be N x H x W x {channels}; these are {images.shape}")
        given = parts_of(images, self.inputs, self._session.kinds)
        try:
            return self._session(given)
        except Exception as error:  # runtimes raise what they like
            raise FullconvError(f"{self.path}: can't be run: {one_line(error)}") from error

    def label_all(self, images: Pixels) -> dict[str, NDArray[np.uint8]]:
        """Return the class of each pixel, uint8 N x H x W, by head (see `outputs`)."""
        found = self.outputs(images)
        if self.about.output == "labels":
            return found
        return {name: each.argmax(1).astype(np.uint8) for name, each in found.items()}

    def label(self, image: Pixels) -> dict[str, NDArray[np.uint8]]:
        """Return the class of each pixel of an image H x W x C, uint8 H x W, by head."""
        return {name: labels[0] for name, labels in self.label_all(image[None]).items()}


def parts_of(
    images: Pixels, inputs: Mapping[str, int], kinds: Sequence[np.dtype[Any]]
) -> list[Pixels]:
    """Return the channels of each input, N x H x W x C, of its graph's type."""
    ends = np.cumsum(list(inputs.values()))[:-1]
    parts = np.split(images, ends, 3) if len(ends) else [images]
    return [np.require(part, kind, ("C", "W")) for part, kind in zip(parts, kinds, strict=True)]


def start(path: Path, at_once: int, threads: int) -> Session:
    """Make a file ready in its runtime; raises FullconvError where that can't be."""
    engine = SUFFIXES.get(path.suffix.lower())
    if engine is None:
        raise FullconvError(f"{path}: no export; such a file is called .onnx or .xml")
    if not path.is_file():
        raise FullconvError(f"{path}: no such file")
    if engine == "openvino" and not path.with_suffix(".bin").is_file():
        raise FullconvError(f"{path.with_suffix('.bin')}: missing; it belongs to {path}")
    kind = ONNXRuntimeSession if engine == "onnxruntime" else OpenVINOSession
    try:
        return kind(path, at_once, threads)
    except ImportError as error:
        raise FullconvError(
            f"{path}: needs {engine}: pip install 'fullconv[{EXTRAS[engine]}]'"
        ) from error
    except Exception as error:
        raise FullconvError(f"{path}: {engine} can't read it: {one_line(error)}") from error


def _read(path: Path, text: str | None) -> ExportMetadata:
    if text is None:
        raise FullconvError(
            f"{path}: says nothing of its classes; was it written by fullconv export?"
        )
    try:
        return ExportMetadata.model_validate_json(text)
    except ValidationError as error:
        raise FullconvError(f"{path}: its metadata is damaged, or of a newer fullconv") from error


class ONNXRuntimeSession:
    """An ONNX file in ONNX Runtime (see `Session`)."""

    def __init__(self, path: Path, at_once: int, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = max(1, threads // at_once)
        if at_once > 1:  # idle threads that spin would be in the way of the other images
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )
        self.about = self._session.get_modelmeta().custom_metadata_map.get(KEY)
        self._turn = threading.Semaphore(at_once)
        self._names = [each.name for each in self._session.get_inputs()]
        self.kinds = tuple(
            np.dtype(np.uint8 if each.type == "tensor(uint8)" else np.float32)
            for each in self._session.get_inputs()
        )
        self.runtime = f"onnxruntime {onnxruntime.__version__}"

    def __call__(self, images: Sequence[Pixels]) -> Sequence[NDArray[Any]]:
        """Return the outputs (see `Session`)."""
        with self._turn:
            found: list[NDArray[Any]] = self._session.run(
                None, dict(zip(self._names, images, strict=True))
            )
        return found


class OpenVINOSession:
    """OpenVINO's files in OpenVINO (see `Session`)."""

    def __init__(self, path: Path, at_once: int, threads: int) -> None:
        openvino = import_openvino()
        graph = core().read_model(path)
        self.about = str(graph.get_rt_info([KEY]).value) if graph.has_rt_info([KEY]) else None
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",  # without it bf16 is taken where it can be
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": at_once,
            "PERFORMANCE_HINT": "LATENCY" if at_once == 1 else "THROUGHPUT",
        }
        compiled = core().compile_model(graph, "CPU", settings)
        self.kinds = tuple(each.get_element_type().to_dtype() for each in compiled.inputs)
        self.runtime = f"openvino {openvino.__version__.partition('-')[0]}"
        count = int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(count):
            self._idle.put(compiled.create_infer_request())

    def __call__(self, images: Sequence[Pixels]) -> Sequence[NDArray[Any]]:
        """Return the outputs (see `Session`)."""
        Tensor = import_openvino().Tensor  # noqa: N806
        request = self._idle.get()
        try:
            request.infer([Tensor(each, shared_memory=True) for each in images])
            return [output.data.copy() for output in request.output_tensors]
        finally:
            self._idle.put(request)
