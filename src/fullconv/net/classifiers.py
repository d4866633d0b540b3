"""From a name to a classifier, its pretrained weights and the preprocessing they expect."""

from __future__ import annotations

import contextlib
import json
import pickle
import warnings
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torchvision.models as tv
from torch import nn

from fullconv.base.errors import FullconvError, nearest
from fullconv.base.portions import is_finite
from fullconv.base.progress import SILENT, Reporter
from fullconv.net import caffe_classifiers as caffe
from fullconv.net.preprocessing import Preprocessing
from fullconv.net.weights.safetensors_file import read_weights
from fullconv.net.weights.torch_file import is_torch_file, read_state

TIMM, CAFFE = "timm:", "caffe:"
MOST_PREFIXES = 8  # that are tried on the names in a file
CAFFE_NAMES = ("caffe:vgg16", "caffe:caffenet", "caffe:googlenet")


def build_classifier(
    name: str, weights: str | Path | None = None, reporter: Reporter = SILENT
) -> tuple[nn.Module, Preprocessing]:
    """Build a classifier by name.

    Args:
        name: a torchvision model's name, ``timm:NAME``, or one of Caffe's: ``caffe:vgg16``,
            ``caffe:caffenet`` or ``caffe:googlenet``.
        weights: None (random), "imagenet" (the library's own pretrained weights, downloaded or
            from its cache) or a safetensors file of the whole classifier, whose metadata names the
            ``architecture`` ("torchvision mobilenet_v2") and the preprocessing; or what torch.save
            wrote, a state dict or a checkpoint that holds one; of one of Caffe's, a caffemodel.
        reporter: told of a prefix that all names in a file have, and that is left out.

    Raises:
        FullconvError: unknown name; weights that can't be had, or of another architecture.
    """
    if weights is None:
        return _untrained(name), default_preprocessing(name)
    if weights == "imagenet":
        return _pretrained(name)
    path = Path(weights)
    if path.suffix == ".caffemodel":
        return _from_caffemodel(name, path), default_preprocessing(name)
    torch_wrote_it = is_torch_file(path)
    state, metadata = (read_state(path), {}) if torch_wrote_it else read_weights(path)
    _check_architecture(name, metadata.get("architecture"), path)
    classifier = _untrained(name)
    _load(classifier, _without_prefix(state, classifier, path, reporter), name, path)
    return classifier, preprocessing_from_metadata(metadata, default_preprocessing(name), path)


def default_preprocessing(name: str) -> Preprocessing:
    """Return what the library's own pretrained weights of `name` expect."""
    if name.startswith(CAFFE):
        return caffe.caffe_preprocessing(_caffe_classifier(name).input_size)
    if name.startswith(TIMM):
        config = _timm().get_pretrained_cfg(name.removeprefix(TIMM))
        if config is None:
            return Preprocessing()
        return Preprocessing(
            mean=tuple(config.mean), std=tuple(config.std), input_size=config.input_size[-1]
        )
    presets = _torchvision_weights(name).transforms()
    return Preprocessing(
        mean=tuple(presets.mean), std=tuple(presets.std), input_size=presets.crop_size[0]
    )


def _torchvision_weights(name: str) -> Any:
    """Return the weights that torchvision holds to be the best of `name`."""
    known = tv.list_models(module=tv)
    if name not in known:
        close = nearest(name, (*known, *CAFFE_NAMES))
        hint = close or "; give a torchvision classifier's name, timm:NAME or caffe:NAME"
        raise FullconvError(f"unknown backbone {name!r}{hint}")
    return tv.get_model_weights(name).DEFAULT


def _caffe_classifier(name: str) -> type[caffe.VGG16 | caffe.CaffeNet | caffe.GoogLeNet]:
    match name.removeprefix(CAFFE):
        case "vgg16":
            return caffe.VGG16
        case "caffenet":
            return caffe.CaffeNet
        case "googlenet":
            return caffe.GoogLeNet
    raise FullconvError(f"unknown Caffe backbone {name!r}; there are {', '.join(CAFFE_NAMES)}")


def _untrained(name: str) -> nn.Module:
    if name.startswith(CAFFE):
        return _caffe_classifier(name)()
    if name.startswith(TIMM):
        return _timm_model(name, pretrained=False)
    _torchvision_weights(name)  # knows the name
    with warnings.catch_warnings():  # torchvision announces future defaults of GoogLeNet's init
        warnings.simplefilter("ignore", FutureWarning)
        classifier: nn.Module = tv.get_model(name, weights=None)
    if isinstance(classifier, (tv.GoogLeNet, tv.Inception3)):
        # As torchvision builds them for its pretrained weights: with the normalisation that those
        # were trained with, and without the heads that only their own training needs.
        classifier.transform_input, classifier.aux_logits = True, False
        for head in ("aux1", "aux2", "AuxLogits"):
            if hasattr(classifier, head):
                setattr(classifier, head, None)
    return classifier


def _from_caffemodel(name: str, path: Path) -> nn.Module:
    from fullconv.net.weights.caffe_layers import read_classifier

    if not name.startswith(CAFFE):
        raise FullconvError(
            f"{path}: a caffemodel is for Caffe's classifiers (caffe:vgg16, say), not for {name}"
        )
    with torch.device("meta"):  # no time and memory for weights that are replaced
        classifier = _untrained(name)
    classifier.load_state_dict(read_classifier(path, classifier), assign=True)
    return classifier.requires_grad_(True)


def _pretrained(name: str) -> tuple[nn.Module, Preprocessing]:
    if name.startswith(CAFFE):
        from fullconv.net.weights.caffe_zoo import pretrained

        _caffe_classifier(name)  # knows the name
        return _from_caffemodel(name, pretrained(name)), default_preprocessing(name)
    if name.startswith(TIMM):
        try:
            return _timm_model(name, pretrained=True), default_preprocessing(name)
        except (OSError, RuntimeError) as error:
            from huggingface_hub.constants import HF_HUB_CACHE

            model = _timm_hub_id(name)
            cache = Path(HF_HUB_CACHE) / f"models--{model.replace('/', '--')}"
            raise FullconvError(
                f"pretrained weights of {name} can't be downloaded ({_reason(error)}): fetch "
                f"{model} with Hugging Face's hf download on another machine and copy the folder "
                f"{cache.name} from its cache to {cache}, or pass --weights FILE.safetensors"
            ) from error
    weights = _torchvision_weights(name)
    try:
        return tv.get_model(name, weights=weights), default_preprocessing(name)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        cache = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
        raise FullconvError(
            f"pretrained weights of {name} can't be downloaded or read ({_reason(error)}): fetch "
            f"{weights.url} on another machine and save it as {cache}, or pass "
            "--weights FILE.safetensors, or --weights none to start from random ones"
        ) from error


def _reason(error: BaseException) -> str:
    return str(error).split("\n")[0] or type(error).__name__


def _timm() -> Any:
    try:
        import timm.models
    except ImportError as error:
        raise FullconvError("timm: backbones need the extra: pip install fullconv[timm]") from error
    return timm.models


def _timm_model(name: str, pretrained: bool) -> nn.Module:
    models, short = _timm(), name.removeprefix(TIMM)
    if not models.is_model(short.split(".")[0]):
        known = models.list_models()
        raise FullconvError(f"unknown timm backbone {short!r}{nearest(short, known)}")
    classifier: nn.Module = models.create_model(short, pretrained=pretrained)
    return classifier


def _timm_hub_id(name: str) -> str:
    config = _timm().get_pretrained_cfg(name.removeprefix(TIMM))
    return (config and config.hf_hub_id) or f"timm/{name.removeprefix(TIMM)}"


# Weight files ---------------------------------------------------------------------------------


def architecture_of(name: str) -> str:
    """Return what a weight file's metadata calls the classifier `name`."""
    library, colon, short = name.partition(":")
    return f"{library} {short}" if colon else f"torchvision {name}"


def _check_architecture(name: str, architecture: str | None, path: Path) -> None:
    if architecture not in (None, name, architecture_of(name)):
        suggestion = str(architecture).removeprefix("torchvision ").replace(" ", ":")
        raise FullconvError(
            f"{path}: weights of {architecture}, not of {architecture_of(name)}; pass "
            f"--backbone {suggestion}"
        )


def _without_prefix(
    state: dict[str, torch.Tensor], classifier: nn.Module, path: Path, reporter: Reporter
) -> dict[str, torch.Tensor]:
    """Leave out what stands before all names ("module.", "model.", ...), if they fit then."""
    own = next(iter(classifier.state_dict()), "")
    before = dict.fromkeys(name.removesuffix(own) for name in state if name.endswith(f".{own}"))
    for prefix in islice(before, MOST_PREFIXES):
        shorter = {name.removeprefix(prefix): value for name, value in state.items()}
        if len(shorter) == len(state) and not _misfits(classifier, shorter):
            reporter.warn(f"{path}: its names begin with {prefix!r}, which is left out")
            return shorter
    return state


def _misfits(classifier: nn.Module, state: dict[str, torch.Tensor]) -> dict[str, list[str]]:
    """Return the names that weights lack, have besides, or have in another shape."""
    own = classifier.state_dict()
    counters = {key for key in own if key.endswith("num_batches_tracked")}
    dropped = {name for name, child in classifier._modules.items() if child is None}
    found = {
        "lacks": sorted(set(own) - set(state) - counters),
        "has unknown": sorted(k for k in set(state) - set(own) if k.split(".")[0] not in dropped),
        "misshapes": sorted(k for k in set(own) & set(state) if own[k].shape != state[k].shape),
    }
    return {what: keys for what, keys in found.items() if keys}


def _load(classifier: nn.Module, state: dict[str, torch.Tensor], name: str, path: Path) -> None:
    for what, keys in _misfits(classifier, state).items():
        more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
        hint = (
            "; save the classifier's own weights: torch.save(classifier.state_dict(), 'FILE.pth')"
            if is_torch_file(path)
            else ""
        )
        raise FullconvError(f"{path}: not weights of {name}: it {what} {keys[0][:80]}{more}{hint}")
    broken = [k for k, v in state.items() if v.is_floating_point() and not is_finite(v)]
    if broken:
        raise FullconvError(f"{path}: {broken[0][:80]} holds values that are not finite")
    classifier.load_state_dict(state, strict=False)


def preprocessing_from_metadata(
    metadata: dict[str, str], default: Preprocessing, path: Path
) -> Preprocessing:
    """Read the preprocessing keys, each JSON, of a weight file's metadata."""
    values = default.to_dict()
    for key in values:
        if key in metadata:
            with contextlib.suppress(json.JSONDecodeError):  # a bare word, such as RGB
                values[key] = json.loads(metadata[key])
                continue
            values[key] = metadata[key]
    try:
        return Preprocessing.from_dict(values)
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise FullconvError(f"{path}: its metadata's preprocessing is wrong: {reason}") from error
