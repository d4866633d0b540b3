"""The model folder: model.safetensors and config.json, the Hugging Face Hub's convention."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from fullconv.base.errors import FullconvError
from fullconv.base.files import replacing, write_json
from fullconv.base.settings import first_mistake
from fullconv.geometry import MOST_PADDING
from fullconv.net.fcn import COLOR, FCN, MOST_REDUCTION, ONLY_HEAD
from fullconv.net.preprocessing import Preprocessing
from fullconv.net.stored_graph import StoredGraph
from fullconv.net.trunk import MOST_STRIDE, LateFusion, Trunk
from fullconv.net.weights.safetensors_file import read_weights

FORMAT = 2  # 1 knew one head and named its weights otherwise
WEIGHTS, CONFIG = "model.safetensors", "config.json"
MOST_INPUTS = 16
Channels = Annotated[int, Field(ge=1, le=64)]
Byte = Annotated[int, Field(ge=0, le=255)]
Temperature = Annotated[float, Field(ge=1e-3, le=1e3)]


class _Net(BaseModel):
    """The arguments that rebuild a net."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    trunk: str | None
    stride: int
    inputs: Annotated[dict[str, Channels], Field(max_length=MOST_INPUTS)] = COLOR
    fusion: Literal["early", "late"] = "early"
    skips: dict[int, str] = {}
    skip_scales: dict[int, float] = {}
    padding: Annotated[int, Field(ge=0, le=MOST_PADDING)] | None = None
    magnify: Annotated[int, Field(ge=1, le=MOST_STRIDE)] = 1
    reduce: Annotated[int, Field(ge=1, le=MOST_REDUCTION)] = 1
    learn_upscores: bool = True
    learn_last_upscore: bool = False


class _Labelling(BaseModel):
    """The classes of a head, and its temperature, which folders of old do not tell."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    classes: Annotated[tuple[str, ...], Field(min_length=1, max_length=255)]
    palette: tuple[tuple[Byte, Byte, Byte], ...]
    temperature: Temperature = 1.0


class _Config(BaseModel):
    """config.json; either `classes`, `palette`, `temperature` or, of several heads, `heads`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: int
    net: _Net
    classes: tuple[str, ...] = ()
    palette: tuple[tuple[Byte, Byte, Byte], ...] = ()
    temperature: Temperature = 1.0
    heads: dict[str, _Labelling] = {}
    ignore_index: int
    preprocessing: dict[str, Any]
    metrics: dict[str, Any] = {}
    graph: dict[str, StoredGraph] = {}

    @model_validator(mode="after")
    def _has_classes(self) -> _Config:
        if bool(self.classes) == bool(self.heads):
            raise ValueError("neither classes nor heads, or both")
        return self

    def labellings(self) -> dict[str, Any]:
        """Return the arguments of `FCN` that tell its classes."""
        if not self.heads:
            count = len(self.classes)
            return {"num_classes": count, "classes": self.classes, "palette": self.palette}
        return {
            "heads": {name: head.classes for name, head in self.heads.items()},
            "palette": {name: head.palette for name, head in self.heads.items()},
        }


def save(net: FCN, folder: Path, metrics: Mapping[str, Any] | None = None) -> None:
    """Write a net as a model folder; files that stand there are replaced only by whole ones.

    `metrics` is noted in config.json.

    Raises:
        OSError: the folder can't be written, or the disk is full; what stood there before stays.
        ValueError: `metrics` is not JSON (NaN isn't).
    """
    tensors = _tensors(net)
    config = {
        "format": FORMAT,
        "net": net.arguments,
        **_labellings(net),
        "ignore_index": net.ignore_index,
        "preprocessing": net.preprocessing.to_dict(),
        "metrics": dict(metrics or {}),
        "graph": _graphs(net),
    }
    with replacing(folder / WEIGHTS) as temporary:
        try:
            # One key only: safetensors writes several in random order, and equal runs would differ.
            save_file(tensors, temporary, {"sha256": _digest(tensors)})
        except SafetensorError as error:
            raise OSError(f"{folder / WEIGHTS}: {error}") from error
        write_json(folder / CONFIG, config)  # if this fails, the old weights stay too


def _tensors(net: FCN) -> dict[str, torch.Tensor]:
    """Return the net's state as safetensors takes it: on the CPU, and sharing no memory.

    Only what does share is copied: half a gigabyte of weights need not be there twice.
    """
    tensors, seen = {}, set()
    for name, value in net.state_dict().items():
        tensor = value.detach().to("cpu", memory_format=torch.contiguous_format)
        memory = tensor.untyped_storage().data_ptr()
        tensors[name] = tensor.clone() if memory in seen else tensor
        seen.add(memory)
    return tensors


def _graphs(net: FCN) -> dict[str, Any]:
    """Return the graph of each trunk; nothing if one can't be stored, as layers of the user's."""
    stored = {_trunk_path(name): StoredGraph.of(each.layers) for name, each in net.trunks.items()}
    return {
        path: graph.to_json() for path, graph in stored.items() if graph and all(stored.values())
    }


def _trunk_path(name: str) -> str:
    return f"trunk.{name}" if name else "trunk"


def _labellings(net: FCN) -> dict[str, Any]:
    """Return the classes, colours and temperature of each head, or of the only one."""
    heads = {
        name: {
            "classes": list(head.classes),
            "palette": [list(c) for c in head.palette],
            "temperature": head.temperature,
        }
        for name, head in net.labelled()
    }
    return heads[ONLY_HEAD] if tuple(heads) == (ONLY_HEAD,) else {"heads": heads}


def load(model: str | PathLike[str], classifier: nn.Module | None = None) -> FCN:
    """Read a net from a model folder, or from a model of the Hugging Face Hub.

    As a rule the folder holds the trunk's layers, and the net needs neither its classifier nor the
    library that this is from.

    Args:
        model: a folder, or a Hub id "owner/name" where no such folder exists.
        classifier: to build the trunk from, in place of what the folder says: for a net that was
            built on a user's own module with layers of the user's own, which the folder can't hold.

    Returns:
        The net on the CPU, in evaluation mode.

    Raises:
        FullconvError: something is missing or altered, or the Hub can't be reached; the message
            names the file.
    """
    folder = _folder(str(model))
    config = _read_config(folder / CONFIG)
    if config.net.trunk is None and not config.graph and classifier is None:
        raise FullconvError(
            f"{folder}: this net was built on a module of the user's own; pass it: "
            "fullconv.load(folder, classifier=module)"
        )
    try:
        preprocessing = Preprocessing.from_dict(config.preprocessing)
        if classifier is None and config.graph:
            net = _rebuilt(config, preprocessing)
        else:
            trunk = config.net.trunk if classifier is None else classifier
            net = _built(config, preprocessing, trunk)
    except (FullconvError, ValueError) as error:
        raise FullconvError(f"{folder / CONFIG}: {' '.join(str(error).split())}") from error
    _load_state(net, folder / WEIGHTS)
    for name, head in net.labelled():
        head.temperature = (config.heads.get(name) or config).temperature
    return net.eval()


def _built(config: _Config, preprocessing: Preprocessing, trunk: str | nn.Module | None) -> FCN:
    return FCN(
        trunk,  # type: ignore[arg-type]
        **config.labellings(),
        ignore_index=config.ignore_index,
        preprocessing=preprocessing,
        **config.net.model_dump(exclude={"trunk"}),
    )


def _rebuilt(config: _Config, preprocessing: Preprocessing) -> FCN:
    """Build the net on "meta", without data, from what is stored of its trunk."""
    try:
        with torch.device("meta"):
            net = _built(config, preprocessing, _stored_trunk(config))
    except FullconvError:
        raise
    except Exception as error:  # forged data may fail anywhere
        raise FullconvError(f"its graph is no trunk's ({type(error).__name__})") from error
    net.arguments["trunk"] = config.net.trunk
    return net


def _stored_trunk(config: _Config) -> Trunk | LateFusion:
    inputs = config.net.inputs
    if config.net.fusion == "early":
        return _trunk_of(config, "", sum(inputs.values()))
    return LateFusion({name: _trunk_of(config, name, n) for name, n in inputs.items()}, inputs)


def _trunk_of(config: _Config, name: str, channels: int) -> Trunk:
    return Trunk.of_layers(config.graph[_trunk_path(name)].rebuild(), channels)


def _folder(model: str) -> Path:
    folder = Path(model)
    if folder.exists():
        if not folder.is_dir():
            raise FullconvError(f"{folder}: a model is a folder with {CONFIG} and {WEIGHTS}")
        return folder
    if model.count("/") != 1 or model.startswith((".", "/")):
        raise FullconvError(f"{model}: no such model folder")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, allow_patterns=[CONFIG, WEIGHTS]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().split("\n")[0]
        raise FullconvError(
            f"{model}: no such folder, and not to be had from the Hugging Face Hub ({reason})"
        ) from error


def _read_config(path: Path) -> _Config:
    if not path.is_file():
        raise FullconvError(f"{path}: missing; a model folder holds {CONFIG} and {WEIGHTS}")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        known = values.get("format") if isinstance(values, dict) else None
        if isinstance(known, int) and known > FORMAT:
            raise FullconvError(f"{path}: format {known} is newer than this fullconv; upgrade it")
        if isinstance(known, int) and known < FORMAT:
            raise FullconvError(f"{path}: format {known} is no longer read; train or convert anew")
        return _Config.model_validate(values)
    except ValidationError as error:
        mistake = first_mistake(error)
        where = ".".join(map(str, mistake.path)) or "the file"
        raise FullconvError(f"{path}: {where}: {mistake.said}") from error
    except (ValueError, RecursionError) as error:
        raise FullconvError(f"{path}: not JSON ({error}); was it altered?") from error


def _load_state(net: FCN, path: Path) -> None:
    state, metadata = read_weights(path)
    if metadata.get("sha256", digest := _digest(state)) != digest:
        raise FullconvError(f"{path}: its contents were altered since it was saved")
    own = net.state_dict()
    wrong = sorted(
        name
        for name in own.keys() | state.keys()
        if name not in own or name not in state or own[name].shape != state[name].shape
    )
    if wrong:
        classes = state.get(f"heads.{ONLY_HEAD}.scores.{net.taps[0].stride}.bias")
        hint = f" (it holds {len(classes)} classes)" if classes is not None else ""
        raise FullconvError(
            f"{path}: does not fit {CONFIG} beside it{hint}: {wrong[0]} and {len(wrong) - 1} more "
            "are missing, unknown or of another shape"
        )
    empty = any(value.is_meta for value in own.values())
    if empty:  # copied, since what was read is the file itself, which may change
        state = {name: value.to(own[name].dtype, copy=True) for name, value in state.items()}
    net.load_state_dict(state, assign=empty)


def _digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """Return a SHA-256 over all that the tensors are, so that a changed byte doesn't go unseen."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
