"""Which files to label, and where the results of each go: settled before anything starts."""

from __future__ import annotations

import glob
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from fullconv.data.folder import first_few
from fullconv.data.images import IMAGE_SUFFIXES
from fullconv.errors import FullconvError


@dataclass(frozen=True, slots=True)
class Job:
    """One image to label.

    Attributes:
        source: the image.
        name: path of its results below `out`, without suffix.
        out: folder of all results.
        with_scores: whether probabilities are asked for.
    """

    source: Path
    name: str
    out: Path
    with_scores: bool = False

    @property
    def labels(self) -> Path:
        """Where the label image goes."""
        return self.out / f"{self.name}.png"

    @property
    def overlay(self) -> Path:
        """Where the tinted photograph goes."""
        return self.out / "overlay" / f"{self.name}.jpg"

    @property
    def scores(self) -> Path:
        """Where the probabilities go, if asked for."""
        return self.out / "scores" / f"{self.name}.npy"

    @property
    def outputs(self) -> tuple[Path, ...]:
        """All files that will be written."""
        return (self.labels, self.overlay) + (self.scores,) * self.with_scores


def plan(inputs: Sequence[str], out: Path, *, scores: bool = False) -> tuple[Job, ...]:
    """Find the images that `inputs` mean and assign their outputs below `out`.

    An input is a file, a folder (searched recursively) or a glob pattern (``**`` too); images
    found below a folder, or below the fixed part of a pattern, keep their path relative to it.
    What already lies in `out` is no input, unless named itself.

    Raises:
        FullconvError: an input isn't there, no image was found, or an output would collide with
            another or overwrite an input; the message names both.
    """
    found = dict.fromkeys(pair for text in inputs for pair in _expand(text, out))
    if not found:
        suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
        raise FullconvError(f"{first_few(inputs)}: no images found (looked for {suffixes})")
    jobs = tuple(Job(source, name, out, scores) for source, name in found)
    _refuse_collisions(jobs)
    return jobs


def make_folders(jobs: Sequence[Job]) -> None:
    """Make the folders of all outputs and see that files can be written there.

    Raises:
        FullconvError: one can't be made or written in.
    """
    for folder in dict.fromkeys(path.parent for job in jobs for path in job.outputs):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            raise FullconvError(
                f"{folder}: can't write there ({error.strerror}); choose another --out"
            ) from error


def _expand(text: str, out: Path) -> Iterator[tuple[Path, str]]:
    """Yield each image that an input means, and its path below the folder searched, no suffix."""
    path = Path(text)
    if path.is_file():
        yield path, path.stem
        return
    if path.is_dir():
        base, pattern = path, "**"
    elif glob.has_magic(text):
        fixed = next(i for i, part in enumerate(path.parts) if glob.has_magic(part))
        base, pattern = Path(*path.parts[:fixed]), str(PurePath(*path.parts[fixed:]))
    else:
        raise FullconvError(f"{text}: no such file or folder")
    results = out.resolve() if base.resolve() != out.resolve() else None
    names = glob.glob(pattern, root_dir=base, recursive=True)  # noqa: PTH207 (skips hidden files)
    for name in sorted(names):
        source = base / name
        if source.suffix.lower() not in IMAGE_SUFFIXES or not source.is_file():
            continue
        if results is None or results not in source.resolve().parents:
            yield source, PurePath(name).with_suffix("").as_posix()


def _refuse_collisions(jobs: Sequence[Job]) -> None:
    """Refuse two images whose results have one name, and results in the place of an input."""
    sources = {os.path.realpath(job.source) for job in jobs}
    first: dict[str, Job] = {}
    for job in jobs:
        other = first.setdefault(job.name, job)
        if other is not job:
            raise FullconvError(
                f"{other.source} and {job.source} would both be written to {job.labels}; "
                "label them in separate runs, or rename one"
            )
        for output in job.outputs:
            if output.exists() and os.path.realpath(output) in sources:
                raise FullconvError(
                    f"{output}, a result of {job.source}, would overwrite an input; "
                    "choose another --out"
                )
