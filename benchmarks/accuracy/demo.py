"""Do the skips earn their keep, or only the time? The demo against a 32s trained as long.

    python -m benchmarks.accuracy.demo

runs the demo (FCN-32s, then 16s, then 8s), then trains an FCN-32s alone for as long as the three
stages together, and measures all four on the test scenes. Expected: 8s above 16s above 32s in mean
IU, and the long 32s below the 8s: at 32 pixels a cell, time does not buy poles and far cars.
Results: benchmarks/results/demo.csv and demo-machine.json.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from benchmarks.frame import Results, Row, arguments
from fullconv.base.progress import Reporter
from fullconv.demo.run import demonstrate, measure, settings
from fullconv.report.page import NetResult
from fullconv.train.run import run

METRICS = ("pixel_accuracy", "mean_accuracy", "mean_iu", "frequency_weighted_iu")


def main() -> None:
    """Run both trainings and write what they give."""
    parser = arguments(__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="the demo's run folder")
    out = parser.parse_args().out
    nets = list(demonstrate(out, Reporter()).nets)
    data, alone = out.with_name(f"{out.name}-streets"), out.with_name(f"{out.name}-32s-alone")
    outcome = run(alone, settings(data, staged=False, model="fcn32s"), resume=True)
    long = measure(outcome).nets[0]
    nets.append(replace(long, name="FCN-32s, as long as all three"))
    Results("demo").replace([row(net) for net in nets])


def row(net: NetResult) -> Row:
    """Return a net's row of the results."""
    return {
        "net": net.name,
        "minutes": f"{net.seconds / 60:.2f}",
        "epochs": f"{net.log[-1]['epoch']:g}",
        **{name: f"{net.metrics[name]:.4f}" for name in METRICS},
        **{f"iu_{name}": f"{iu or 0:.3f}" for name, iu in net.metrics["iu"].items()},
    }


if __name__ == "__main__":
    main()
