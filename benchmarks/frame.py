"""What all benchmarks share: rows of results that a later run goes on with, and the machine."""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import median

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fullconv.base.files import replacing

ROOT = Path(__file__).parents[1]
# Another machine's results lie beside those of the machine that the docs are about.
RESULTS = Path(os.environ.get("BENCHMARK_RESULTS", ROOT / "benchmarks" / "results"))
DOCS = ROOT / "docs"

Row = dict[str, str]


class Results:
    """The rows of results/NAME.csv; the machine lies beside them in NAME-machine.json.

    Attributes:
        name: of the benchmark.
        rows: in the order of the file; all have the same columns.
    """

    def __init__(self, name: str) -> None:
        """Read what is there already."""
        self.name, self.path = name, RESULTS / f"{name}.csv"
        self.rows: list[Row] = list(csv.DictReader(self.path.open())) if self.path.exists() else []

    def lacks(self, identity: Row) -> bool:
        """Tell whether no row has these values."""
        return not any(identity.items() <= row.items() for row in self.rows)

    def add(
        self, identity: Row, measured: Row, order: Callable[[Row], float] | None = None
    ) -> None:
        """Put a row in place of that of the same identity, if there is one; show and write it.

        Args:
            identity: the columns that tell one row from the others.
            measured: the other columns.
            order: what the rows are sorted by.
        """
        others = [row for row in self.rows if not identity.items() <= row.items()]
        row = {**identity, **measured}
        show(row)
        self.rows = [*others, row]
        if order:
            self.rows.sort(key=order)
        self._write()

    def replace(self, rows: Sequence[Row]) -> None:
        """Put rows in place of all that are known; show and write them."""
        for row in rows:
            show(row)
        self.rows = list(rows)
        self._write()

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self.path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(self.rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)
        about = json.dumps(machine(), indent=2) + "\n"
        self.path.with_name(f"{self.name}-machine.json").write_text(about)


def show(row: Row) -> None:
    """Print the columns of a row that have a value."""
    print(", ".join(f"{key} {value}" for key, value in row.items() if value), flush=True)


def arguments(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser whose help is the docstring of a benchmark."""
    return argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def in_own_process(module: str, *words: str) -> str:
    """Run a benchmark's module in a new process; return the last line that it prints.

    Raises:
        subprocess.CalledProcessError: it failed, for the reason on stderr.
    """
    command = [sys.executable, "-m", module, *words]
    places = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": places}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return done.stdout.splitlines()[-1]


def in_turns(
    runs: Mapping[str, Callable[[], object]], count: int, rounds: int, *, pause: float = 0.0
) -> dict[str, float]:
    """Return the median time of each run in milliseconds an image, of `count` images.

    One round goes ahead that is not counted.

    Args:
        runs: by name.
        count: images of each.
        rounds: that are counted.
        pause: seconds before each run. Threads of a runtime spin for a while when they have
            nothing to do, in the way of the next one's.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds + 1):
        for name, run in runs.items():
            time.sleep(pause)
            begun = time.perf_counter()
            run()
            times[name].append((time.perf_counter() - begun) / count * 1e3)
    return {name: median(found[1:]) for name, found in times.items()}


def highest_memory() -> float:
    """Return this process's highest resident memory so far, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) / 1024


def plain(axes: Sequence[Axes]) -> Iterator[Axes]:
    """Yield axes with a faint grid and no frame."""
    for each in axes:
        each.grid(alpha=0.3)
        each.spines[["top", "right"]].set_visible(False)
        yield each


def save_figure(figure: Figure, name: str) -> None:
    """Write a figure as docs/NAME.png, whole or not at all."""
    with replacing(DOCS / f"{name}.png") as temporary:
        figure.savefig(temporary, format="png", dpi=130)


def machine() -> dict[str, str]:
    """Return processor, cores, memory, system, versions and the commit that was measured."""
    return {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: version(name) for name in ("fullconv", "torch", "torchvision")},
        **{name: version(name) for name in ("openvino", "onnxruntime") if find_spec(name)},
        "commit": _commit(),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    extras = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    return f"{names[0] if names else platform.processor()} ({', '.join(extras)})"


def _commit() -> str:
    asked = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(
        asked, capture_output=True, text=True, check=False, cwd=ROOT
    ).stdout.strip()
