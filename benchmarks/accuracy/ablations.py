"""What each setting is worth: one change at a time, on CamVid.

    python -m benchmarks.accuracy.ablations --data CAMVID --weights mobilenet_v2.safetensors

trains an FCN-8s on MobileNetV2 for ten epochs with a plain recipe (cross entropy and nothing else),
then again with one change (`CHANGES`), each from the same seed; `--seeds 0 1 2` repeats what
`--only` names, or all, from others. The one validation is after the last epoch; it is what chooses.
Test is measured once a training, and so is what left-right flips (`--tta`) add to it.

Expected: a table to choose defaults from, sorted by mean IU on val. Differences below the spread of
the seeds mean nothing.
Results: benchmarks/results/ablations.csv. What is there already is not trained again; a training
that was cut short goes on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.accuracy.measuring import Model
from benchmarks.frame import Results, Row, arguments
from fullconv.train.recipe import read_recipe

EPOCHS = 10
PLAIN = [f"epochs={EPOCHS}", f"validate_every={EPOCHS}", "lovasz=0"]
CHANGES: dict[str, tuple[str, list[str]]] = {
    "plain": ("fcn8s", []),
    "lovasz 0.5": ("fcn8s", ["lovasz=0.5"]),
    "lovasz 1": ("fcn8s", ["lovasz=1"]),
    "dice 0.5": ("fcn8s", ["dice=0.5"]),
    "weights softened": ("fcn8s", ["class_weights=softened"]),
    "lovasz 0.5, weights softened": ("fcn8s", ["lovasz=0.5", "class_weights=softened"]),
    "weights balanced": ("fcn8s", ["class_weights=balanced"]),
    "batch 4": ("fcn8s", ["batch_size=4"]),
    "lr 2e-3": ("fcn8s", ["lr=0.002"]),
    "lr 5e-4": ("fcn8s", ["lr=0.0005"]),
    "trunk lr x0.3": ("fcn8s", ["trunk_lr=0.3"]),
    "batch norm frozen": ("fcn8s", ["batch_norm=frozen"]),
    "ema 0.99": ("fcn8s", ["ema=0.99"]),
    "jitter 0.5 to 2": ("fcn8s", ["scale_jitter=[0.5,2]"]),
    "color 0.6": ("fcn8s", ["color=0.6"]),
    "upscores fixed": ("fcn8s", ["learn_upscores=none"]),
    "stride 4": ("fcn4s", []),
    "stride 2": ("fcn2s", []),
}


def main() -> None:
    """Train what is not known yet, measure it, write the results."""
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the CamVid dataset folder")
    parser.add_argument("--weights", required=True, help="mobilenet_v2's ImageNet weights")
    parser.add_argument("--out", type=Path, default=Path("runs/ablations"), help="of the runs")
    parser.add_argument("--only", nargs="+", choices=tuple(CHANGES), default=tuple(CHANGES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    given = parser.parse_args()
    results = Results("ablations")
    for seed in given.seeds:
        for change in given.only:
            identity = {"change": change, "seed": str(seed)}
            if results.lacks(identity):
                measured = trained(given, change, seed)
                results.add(identity, measured, lambda row: -float(row["val_mean_iu"]))


def trained(given: argparse.Namespace, change: str, seed: int) -> Row:
    """Train with one change and measure the net."""
    net, settings = CHANGES[change]
    asked = {
        "data": given.data,
        "weights": given.weights,
        "model": net,
        "recipe": read_recipe("default", [*PLAIN, *settings, f"seed={seed}"]),
    }
    model = Model.trained(given.out / f"{change.replace(' ', '-')}-{seed}", asked, change)
    plain, flipped = model.on_test(), model.on_test(tta=True)
    return {
        "minutes": model.minutes,
        "train_loss": f"{model.log[-1]['train_loss']:.4f}",
        "val_mean_iu": model.val_mean_iu,
        "test_mean_iu": f"{plain.mean_iu:.4f}",
        "test_mean_iu_tta": f"{flipped.mean_iu:.4f}",
        "test_iu": model.by_class(plain),
    }


if __name__ == "__main__":
    main()
