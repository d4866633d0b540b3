"""The model folder, as a value: model.safetensors and config.json, the Hub's convention.

It knows no net: it tells the arguments, the trunk, the tensors and the labellings that one is made
of (see `fcn.load`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from fullconv.base.errors import FullconvError
from fullconv.base.files import replacing, write_json
from fullconv.base.portions import bits_of
from fullconv.base.settings import first_mistake
from fullconv.net.arguments import MOST_HEADS, MOST_INPUTS, ONLY_HEAD, Labelling, NetArguments
from fullconv.net.preprocessing import Preprocessing
from fullconv.net.stored_graph import StoredGraph
from fullconv.net.trunk import LateFusion, Trunk
from fullconv.net.weights.safetensors_file import read_weights

FORMAT = 2  # 1 knew one head and named its weights otherwise
WEIGHTS, CONFIG, METRICS = "model.safetensors", "config.json", "metrics.json"

_ONE_HEAD = ("classes", "palette", "temperature")  # keys of a folder with one head


class ModelConfig(BaseModel):
    """The contents of config.json.

    Attributes:
        format: of the file.
        net: the arguments that rebuild the net.
        heads: what each head labels. In the file, classes, palette and temperature of an only head
            called "labels" stand by themselves.
        ignore_index: the label id that training and metrics leave out.
        preprocessing: what the net expects, as `Preprocessing.to_dict` gives it.
        metrics: what was measured when the folder was written.
        graph: the layers of each trunk by its path; empty if they can't be stored.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: int
    net: NetArguments
    heads: Annotated[dict[str, Labelling], Field(min_length=1, max_length=MOST_HEADS)]
    ignore_index: int
    preprocessing: dict[str, Any]
    metrics: dict[str, Any] = {}
    graph: Annotated[dict[str, StoredGraph], Field(max_length=MOST_INPUTS)] = {}

    @model_validator(mode="before")
    @classmethod
    def _one_form(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        if bool(values.get("classes")) == bool(values.get("heads")):
            raise ValueError("neither classes nor heads, or both")
        if values.get("heads"):
            return values
        return {**values, "heads": {ONLY_HEAD: {k: values[k] for k in _ONE_HEAD if k in values}}}

    @field_validator("preprocessing")
    @classmethod
    def _is_preprocessing(cls, values: dict[str, Any]) -> dict[str, Any]:
        return Preprocessing.from_dict(values).to_dict()

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        heads = {name: head.model_dump(mode="json") for name, head in self.heads.items()}
        return {
            "format": self.format,
            "net": self.net.to_dict(),
            **(heads[ONLY_HEAD] if tuple(heads) == (ONLY_HEAD,) else {"heads": heads}),
            "ignore_index": self.ignore_index,
            "preprocessing": self.preprocessing,
            "metrics": self.metrics,
            "graph": {path: graph.to_json() for path, graph in self.graph.items()},
        }

    def stored_trunk(self) -> Trunk | LateFusion | None:
        """Build the trunk on "meta", without data; None if its layers are not stored.

        Raises:
            FullconvError: what is stored is no trunk.
            Exception: of any other kind, where it was forged.
        """
        if not self.graph:
            return None
        inputs = self.net.inputs
        if self.net.fusion == "early":
            return self._trunk("", sum(inputs.values()))
        return LateFusion({name: self._trunk(name, n) for name, n in inputs.items()}, inputs)

    def _trunk(self, name: str, channels: int) -> Trunk:
        return Trunk.of_layers(self.graph[trunk_path(name)].rebuild(), channels)


def trunk_path(name: str) -> str:
    """Return where the trunk of an input, or the only one by the name "", lies in a net."""
    return f"trunk.{name}" if name else "trunk"


def stored_graphs(trunks: Mapping[str, Trunk]) -> dict[str, StoredGraph]:
    """Return the graph of each trunk, by its path; nothing if one can't be stored."""
    stored = {trunk_path(name): StoredGraph.of(each.layers) for name, each in trunks.items()}
    # No trunk comes back without its shapes, as those are that earlier versions pickled.
    whole = all(graph and graph.nodes[0].shape for graph in stored.values())
    return {path: graph for path, graph in stored.items() if graph and whole}


def write_folder(folder: Path, config: ModelConfig, state: Mapping[str, Tensor]) -> None:
    """Write a model folder; files that stand there are replaced only by whole ones.

    Raises:
        OSError: the folder can't be written, or the disk is full; what stood there before stays.
        ValueError: the metrics are not JSON (NaN isn't).
    """
    tensors = _own_memory(state)
    with replacing(folder / WEIGHTS) as temporary:
        try:
            # One key only: safetensors writes several in random order, and equal runs would differ.
            save_file(tensors, temporary, {"sha256": digest(tensors)})
        except SafetensorError as error:
            raise OSError(f"{folder / WEIGHTS}: {error}") from error
        write_json(folder / CONFIG, config.to_dict())  # if this fails, the old weights stay too


def read_config(folder: Path) -> ModelConfig:
    """Read a model folder's config.json; raises FullconvError where it is missing or wrong."""
    path = folder / CONFIG
    if not path.is_file():
        below = sorted(each.parent for each in folder.glob(f"*/{CONFIG}"))
        hint = f"; did you mean {' or '.join(map(str, below[-3:]))}?" if below else ""
        raise FullconvError(f"{path}: missing; a model folder holds {CONFIG} and {WEIGHTS}{hint}")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        known = values.get("format") if isinstance(values, dict) else None
        if isinstance(known, int) and known > FORMAT:
            raise FullconvError(f"{path}: format {known} is newer than this fullconv; upgrade it")
        if isinstance(known, int) and known < FORMAT:
            raise FullconvError(f"{path}: format {known} is no longer read; train or convert anew")
        return ModelConfig.model_validate(values)
    except ValidationError as error:
        mistake = first_mistake(error)
        where = ".".join(map(str, mistake.path)) or "the file"
        raise FullconvError(f"{path}: {where}: {' '.join(mistake.said.split())}") from error
    except (ValueError, RecursionError) as error:
        raise FullconvError(f"{path}: not JSON ({error}); was it altered?") from error


def read_state(folder: Path, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Read a model folder's tensors, which are to take the place of a net's `own`.

    Raises:
        FullconvError: the file is missing or was altered, or holds others than `own`.
    """
    path = folder / WEIGHTS
    state, metadata = read_weights(path)
    if metadata.get("sha256", found := digest(state)) != found:
        raise FullconvError(f"{path}: its contents were altered since it was saved")
    wrong = sorted(
        name
        for name in own.keys() | state.keys()
        if name not in own or name not in state or own[name].shape != state[name].shape
    )
    if wrong:
        scores = f"heads.{ONLY_HEAD}.scores."
        biases = (v for k, v in state.items() if k.startswith(scores) and k.endswith(".bias"))
        classes = next(biases, None)
        hint = f" (it holds {len(classes)} classes)" if classes is not None else ""
        raise FullconvError(
            f"{path}: does not fit {CONFIG} beside it{hint}: {wrong[0]} and {len(wrong) - 1} more "
            "are missing, unknown or of another shape"
        )
    # Copied, since what was read is the file itself, which may change.
    return {name: value.to(own[name].dtype, copy=True) for name, value in state.items()}


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Return a SHA-256 over all that the tensors are, so that a changed byte doesn't go unseen."""
    sha256 = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        sha256.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        for some in bits_of(tensor):
            sha256.update(some)
    return sha256.hexdigest()


def _own_memory(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state as safetensors takes it: on the CPU, in order, and sharing no memory.

    Only what does share is copied: half a gigabyte of weights need not be there twice.
    """
    tensors, seen = {}, set()
    for name, value in state.items():
        tensor = value.detach().cpu().contiguous()
        memory = tensor.untyped_storage().data_ptr()
        tensors[name] = tensor.clone() if memory in seen else tensor
        seen.add(memory)
    return tensors
