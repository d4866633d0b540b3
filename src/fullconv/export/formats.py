"""The formats that nets are exported in."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fullconv.base.errors import FullconvError
from fullconv.export.int8 import Layers, onnx_layers, openvino_layers
from fullconv.export.metadata import ExportMetadata
from fullconv.export.onnx import save_onnx, to_onnx
from fullconv.export.openvino import save_openvino, to_whole_openvino
from fullconv.export.whole import Best, Exported, highest, highest_by_comparison


@dataclass(frozen=True)
class Format:
    """How a net becomes a file.

    Attributes:
        name: that people call it by.
        suffix: of its file.
        beside: suffixes of the files that belong to it.
        packages: that write and run it.
        extra: of fullconv, which installs those.
        best: gives the class of each pixel, as its runtime does it soonest.
        resizes: whether that resizes scores sooner than it convolves them.
        convert: returns a module's graph, in float32.
        layers: names those of a graph.
        save: writes it with what it says of itself.
    """

    name: str
    suffix: str
    beside: tuple[str, ...]
    packages: tuple[str, ...]
    extra: str
    best: Best
    resizes: bool
    convert: Callable[[Exported], Any]
    layers: Callable[[Any], Layers]
    save: Callable[[Any, ExportMetadata, Path], None]

    def require_installed(self) -> None:
        """Raise FullconvError where a package is missing."""
        if not all(importlib.util.find_spec(package) for package in self.packages):
            raise FullconvError(
                f"format {self.name} needs {' and '.join(self.packages)}: "
                f"pip install 'fullconv[{self.extra}]'"
            )

    def place(self, out: Path) -> Path:
        """Return the file that `out` stands for; raises FullconvError for another's suffix."""
        if out.suffix.lower() != self.suffix:
            raise FullconvError(
                f"{out}: a file of format {self.name} is called {self.suffix}; "
                f"write it to {out.with_suffix(self.suffix)}"
            )
        return out


ONNX = Format(
    "onnx",
    ".onnx",
    (),
    ("onnx", "onnxruntime"),
    "onnx",
    highest,
    True,
    to_onnx,
    onnx_layers,
    save_onnx,
)
OPENVINO = Format(
    "openvino",
    ".xml",
    (".bin",),
    ("openvino",),
    "openvino",
    highest_by_comparison,
    False,
    to_whole_openvino,
    openvino_layers,
    save_openvino,
)
FORMATS = {each.name: each for each in (ONNX, OPENVINO)}
