"""The nets of a run: built from a classifier, or grown from another net, as each stage is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fullconv.data.info import DatasetInfo
from fullconv.errors import FullconvError, nearest
from fullconv.fcn import FCN
from fullconv.preprocessing import Preprocessing
from fullconv.surgery import expand_score, transplant
from fullconv.train.recipe import Recipe

STRIDES = {"fcn32s": 32, "fcn16s": 16, "fcn8s": 8, "fcn4s": 4}
DEFAULT_BACKBONE = "mobilenet_v2"


def stride_of(model: str) -> int:
    """Return the stride of a net by its name: 8 for fcn8s.

    Raises:
        FullconvError: no net is called so.
    """
    if model not in STRIDES:
        raise FullconvError(
            f"model {model!r} is none of {', '.join(STRIDES)}{nearest(model, STRIDES)}"
        )
    return STRIDES[model]


def is_model(weights: str) -> bool:
    """Tell whether ``--weights`` names a model (a folder or a Hub id), not a classifier's weights.

    Raises:
        FullconvError: it names nothing at all.
    """
    if weights in ("imagenet", "none") or Path(weights).is_file():
        return False
    if Path(weights).is_dir():
        return True
    if weights.endswith(".safetensors"):
        raise FullconvError(f"{weights}: no such weights file")
    if weights.count("/") == 1:  # owner/name
        return True
    raise FullconvError(
        f"weights {weights!r} are neither imagenet nor none, nor a file or model folder"
        f"{nearest(weights, ('imagenet', 'none'))}"
    )


def new_net(
    backbone: str, stride: int, info: DatasetInfo, recipe: Recipe, weights: str | None
) -> FCN:
    """Build a net for a dataset on a classifier, whose weights are imagenet, none or a file."""
    given = None if weights in (None, "none") else weights
    return FCN(backbone, stride, **_for_data(info), **_learning(recipe), weights=given)


def grown_net(source: FCN, stride: int, info: DatasetInfo, recipe: Recipe) -> FCN:
    """Build a net of another stride, or for other classes, that takes over what `source` learnt.

    The trunk is transplanted. The scores and upscores that both nets have are taken over for the
    classes that both know by name; the others start anew (scores at zero).
    """
    net = _like(source.arguments, source.preprocessing, stride, info, recipe)
    done = transplant(source.trunk, net.trunk)
    if done.missing or done.misfit:
        raise FullconvError(
            f"the trunk's {(done.missing + done.misfit)[0]} can't be taken over from the source"
        )
    known = {name: label for label, name in enumerate(source.classes)}
    expand_score(source.head.state_dict(), net.head, [known.get(name) for name in net.classes])
    return net


def saved_net(saved: dict[str, Any], info: DatasetInfo, recipe: Recipe) -> FCN:
    """Build the net whose training state was `saved` (its weights are restored later)."""
    arguments = saved["arguments"]
    preprocessing = Preprocessing.from_dict(saved["preprocessing"])
    return _like(arguments, preprocessing, arguments["stride"], info, recipe)


def _like(
    arguments: dict[str, Any],
    preprocessing: Preprocessing,
    stride: int,
    info: DatasetInfo,
    recipe: Recipe,
) -> FCN:
    return FCN(
        **{**arguments, "stride": stride, **_learning(recipe)},
        preprocessing=preprocessing,
        **_for_data(info),
    )


def _for_data(info: DatasetInfo) -> dict[str, Any]:
    return {
        "num_classes": len(info.classes),
        "classes": info.classes,
        "palette": info.palette,
        "ignore_index": info.ignore_index,
    }


def _learning(recipe: Recipe) -> dict[str, Any]:
    return {
        "learn_upscores": recipe.learn_upscores != "none",
        "learn_last_upscore": recipe.learn_upscores == "all",
    }
