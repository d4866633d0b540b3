"""recipe.yaml of a run folder: what was asked for and what became of it."""

from __future__ import annotations

import errno
import platform
import shlex
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml
from pydantic import ValidationError

import fullconv
from fullconv.base.errors import FullconvError
from fullconv.base.files import is_left_over, write_text
from fullconv.base.processes import ALONE, Processes
from fullconv.base.remote import RemotePath, place
from fullconv.base.settings import first_mistake, read_yaml
from fullconv.papers.blueprint import Blueprint
from fullconv.train.checkpoint import saving_in
from fullconv.train.lock import RunLock
from fullconv.train.settings import MAY_CHANGE, TrainSettings
from fullconv.train.state import TrainingState

if TYPE_CHECKING:
    from fullconv.data.fingerprint import Fingerprint
    from fullconv.net.fcn import FCN

NAME = "recipe.yaml"
_USUAL = (("color",), "early")  # what inputs and fusion are where nothing is said
SECONDS_FOR_THE_REST = 15.0  # of a limited time: the program's start, the report


@dataclass
class Record:
    """A run folder's recipe.yaml: the settings, settled by what they make, and what became of it.

    Attributes:
        out: the run folder.
        settings: what was asked for.
        nets: of each net in order what became of it: its plan, then its seconds; empty until the
            run has begun.
        fingerprint: of each split, as it was when the run began.
        lock: held from then on.
        launch: names the command that began the run, which may start its processes anew.
        moved: whether what of a run may change is other than in the file.
    """

    out: Path
    settings: TrainSettings
    lock: RunLock
    launch: str = ""
    nets: dict[str, dict[str, Any]] = field(default_factory=dict)
    fingerprint: dict[str, Any] = field(default_factory=dict)
    moved: bool = False

    @classmethod
    def open(
        cls,
        out: Path,
        asked: Mapping[str, Any],
        lock: RunLock,
        *,
        resume: bool,
        processes: Processes = ALONE,
    ) -> Record:
        """Read the record of the run in `out`, or prepare one for a new run.

        One that these processes began before they were started anew is continued, too.

        Raises:
            FullconvError: see `run`.
        """
        if (out / NAME).is_file():
            again = processes.restarted and _launch(out / NAME) == processes.launch
            if not (resume or again):
                raise FullconvError(
                    f"{out}: holds a run already; continue it with --resume, or choose another "
                    "--out"
                )
            lock.take()
            return cls._continued(out, asked, lock, processes.launch)
        if out.exists() and not out.is_dir():
            raise FullconvError(f"{out}: is a file; --out names a folder")
        if out.is_dir() and any(not path.name.startswith(".") for path in out.iterdir()):
            raise FullconvError(f"{out}: is not empty and holds no run; choose another --out")
        if "data" not in asked:
            why = f"{out}: holds no run to resume" if resume else "no data given"
            raise FullconvError(f"{why}; --data DIR names the dataset folder to train on")
        settings = TrainSettings(**{**asked, "data": place(asked["data"]).absolute()})
        Blueprint.named(settings.model)
        return cls(out, settings, lock, processes.launch)

    @classmethod
    def _continued(cls, out: Path, asked: Mapping[str, Any], lock: RunLock, launch: str) -> Record:
        path = out / NAME
        try:
            values = read_yaml(path.read_bytes())
            # Runs of old: none measured ranges or bands, and none was asked for trust.
            values = {"ranges": {}, "spreads": {}, "trust": False, **values}
            settings = TrainSettings.model_validate(
                {k: values[k] for k in TrainSettings.model_fields}
            )
            nets = {str(name): dict(net or {}) for name, net in values["nets"].items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            problem = first_mistake(error) if isinstance(error, ValidationError) else error
            raise FullconvError(
                f"{path}: not the record of a run ({problem}); was it edited?"
            ) from error
        for key in asked.keys() - set(MAY_CHANGE):
            if asked[key] != getattr(settings, key):
                learnt = out / (list(nets) or ["…"])[-1]
                further = f"; to train on from what it learnt: --weights {learnt} --out OTHER"
                raise FullconvError(
                    f"{out}: was begun with another {key}; --resume continues a run as it was "
                    "begun, so leave that option out, or choose another --out"
                    f"{further if all('seconds' in net for net in nets.values()) else ''}"
                )
        changed = {key: asked[key] for key in MAY_CHANGE if key in asked}
        if "data" in changed:
            changed["data"] = place(changed["data"]).absolute()
        record = cls(out, settings.model_copy(update=changed), lock, launch, nets)
        data = record.settings.data
        if not (isinstance(data, RemotePath) or data.is_dir()):
            raise FullconvError(
                f"{data}: is no folder; if the run's data have moved, say where "
                "they are: --resume --data DIR"
            )
        record.moved = record.settings != settings or values.get("launch", "") != launch
        record.fingerprint = dict(values.get("fingerprint") or {})  # those of old have none
        record.clear()
        return record

    def clear(self) -> None:
        """Remove what a process left that was killed while it wrote."""
        for leftover in self.out.rglob(".*.tmp"):
            if is_left_over(leftover.name):
                leftover.unlink(missing_ok=True)

    @property
    def inputs(self) -> tuple[str, ...]:
        """What the nets see of each image, in their order; to be asked of a settled run."""
        assert self.settings.inputs is not None
        return self.settings.inputs

    @property
    def path(self) -> Path:
        """The file."""
        return self.out / NAME

    @property
    def names(self) -> tuple[str, ...]:
        """The nets in the order of their training."""
        return tuple(self.nets)

    def folder(self, name: str) -> Path:
        """Return the model folder of a net."""
        return self.out / name

    def stride(self, name: str) -> int:
        """Return the stride of a net."""
        return Blueprint.named(name).stride

    def unfinished(self) -> Iterator[str]:
        """Yield the nets whose training has not ended."""
        return (name for name in self.names if "seconds" not in self.nets[name])

    def share(self, name: str) -> tuple[float | None, float]:
        """Return what a net may use of the run: seconds of the time left (or None), and a share.

        The share is of the recipe's epochs; both follow its `stage_shares`, if it does not give
        the steps of each net.
        """
        recipe, stage = self.settings.recipe, self.names.index(name)
        shares = (1.0,) if recipe.steps else recipe.stage_shares
        weights = [_at(shares, place) for place in range(len(self.nets))]
        if recipe.minutes is None:
            return None, weights[stage] / sum(weights)
        spent = sum(self.nets[before]["seconds"] for before in self.names[:stage])
        left = max(recipe.minutes * 60 - SECONDS_FOR_THE_REST - spent, 1.0)
        return left * weights[stage] / sum(weights[stage:]), weights[stage] / sum(weights)

    def rate(self, name: str) -> float:
        """Return the factor on the learning rate of a net, which is a stage's own."""
        if not self.settings.staged:
            return 1.0
        return _at(self.settings.recipe.stage_lr, self.names.index(name))

    def settle(self, target: FCN, measured: Fingerprint) -> None:
        """Note what the settings left open and the last net and the data decide.

        Args:
            target: that net, as it is before training.
            measured: of the training images (see `TrainSettings`).
        """
        decided = {
            "inputs": tuple(target.inputs),
            "fusion": target.arguments.fusion,
            "ranges": {name: each.ends for name, each in measured.ranges.items()},
            "spreads": {name: (each.mean, each.std) for name, each in measured.spreads.items()},
        }
        self.settings = self.settings.model_copy(update=decided)

    def begin(self, names: Sequence[str]) -> None:
        """Create the run folder for these nets.

        Raises:
            FullconvError: the folder can't be written.
        """
        self.nets = {name: {} for name in names}
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            self.lock.take()
            if (self.out / NAME).exists():  # of a run that began meanwhile
                raise FullconvError(f"{self.out}: holds a run already; choose another --out")
            self.clear()
            self.write()
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise
            raise FullconvError(
                f"{self.out}: cannot be written ({error.strerror}); choose another --out"
            ) from error

    def note(self, name: str, state: TrainingState, finished: bool) -> None:
        """Note the plan of a net and, when its training has ended, the seconds it took."""
        magnify, reduce = state.net.scale.as_integer_ratio()
        self.nets[name] = {
            "stride": state.net.stride,
            "coarsest": state.net.taps[0].stride,
            "magnify": magnify,
            "reduce": reduce,
            "plan": _plain(state.plan.to_dict()),
        }
        if finished:
            self.nets[name]["seconds"] = round(state.seconds, 2)

    def save(self) -> None:
        """Write recipe.yaml into a run folder that is there.

        Raises:
            WorkFailedError: it can't be written.
        """
        with saving_in(self.out):
            self.write()

    def write(self) -> None:
        """Write recipe.yaml, whole or not at all."""
        values = {
            **self.settings.model_dump(mode="json"),
            "nets": self.nets,
            "fingerprint": self.fingerprint,
            "launch": self.launch,
            **_circumstances(),
        }
        header = (
            "# Every setting of this run. Continue it, if it was cut short:\n"
            f"#   fullconv train --out {self.out} --resume\n"
            "# Make another with the same settings:\n"
            f"#   fullconv train --data DIR --out OTHER {shlex.join(self._options())}\n"
        )
        write_text(self.out / NAME, header + yaml.safe_dump(values, sort_keys=False))

    def _options(self) -> Iterator[str]:
        """Yield the options, and what they are given, of a run with the same settings."""
        settings = self.settings
        yield from ("--recipe", str(self.out / NAME), "--model", settings.model)
        for name in ("backbone", "weights", "inputs", "fusion", "max_pixels"):
            value, usual = getattr(settings, name), TrainSettings.model_fields[name].default
            if value not in (None, usual, *_USUAL):
                text = ",".join(value) if isinstance(value, tuple) else str(value)
                yield from (f"--{name.replace('_', '-')}", text)
        yield from (f"--{name}" for name in ("staged", "trust") if getattr(settings, name))


def _launch(path: Path) -> str | None:
    """Return which launch a recipe.yaml names; None if that can't be read."""
    with suppress(ValueError, AttributeError):
        return str(read_yaml(path.read_bytes()).get("launch", ""))
    return None


def _at(values: Sequence[float], stage: int) -> float:
    """Return the value of a stage; the last one serves for any further stage."""
    return values[min(stage, len(values) - 1)]


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


def _circumstances() -> dict[str, Any]:
    """Return what else a result may depend on."""
    return {
        "versions": {
            "fullconv": fullconv.__version__,
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        },
        "threads": torch.get_num_threads(),
        "commit": _commit(),
    }


def _commit() -> str | None:
    """Return the git commit of fullconv's source, "-dirty" if it was changed; None if unknown."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--match="]
    with suppress(OSError, subprocess.SubprocessError):
        answer = subprocess.run(
            command,
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
        return answer.stdout.strip()
    return None
