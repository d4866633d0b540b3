"""``fullconv demo``: the main job on data that it makes itself."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from fullconv.cli.options import Debug, Quiet


def command(
    *,
    out: Annotated[Path, typer.Option("--out", help="The run folder to make.")] = Path("runs/demo"),
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Draw streets, train FCN-32s, 16s and 8s on them, measure each, and write a report.

    Takes about four minutes on two CPU cores and needs no internet.
    """
    from fullconv.base.progress import Reporter
    from fullconv.demo.run import demonstrate

    report = demonstrate(out, Reporter(quiet))
    print(
        "mean IU on test: "
        + ", ".join(f"{net.name} {net.metrics['mean_iu']:.3f}" for net in report.nets)
    )
    print(f"look at {out / 'report.html'}")
    if shutil.which("fullconv") is None:
        print("to type fullconv without its path: source .venv/bin/activate")
    print("next, with a folder of your own images and masks (README.md says how it is laid out):")
    print("  fullconv data check DIR")
    print("  fullconv train --data DIR --out runs/mine --set minutes=45")
    print(
        f"or label any photograph with the demo's net: fullconv predict {out / 'fcn8s'} PHOTO.jpg "
        "--out labelled"
    )
