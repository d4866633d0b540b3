"""Which files to label, and where the results of each go: settled before anything starts."""

from __future__ import annotations

import glob
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from fullconv.data.folder import first_few
from fullconv.data.images import IMAGE_SUFFIXES
from fullconv.errors import FullconvError


@dataclass(frozen=True)
class Job:
    """One image to label.

    Attributes:
        source: the image.
        labels: where its label image goes (PNG).
        overlay: where the tinted photograph goes (JPEG).
        scores: where the probabilities go (NumPy's .npy), or None if nobody asked for them.
    """

    source: Path
    labels: Path
    overlay: Path
    scores: Path | None = None

    @property
    def outputs(self) -> tuple[Path, ...]:
        """All files that will be written."""
        return tuple(p for p in (self.labels, self.overlay, self.scores) if p is not None)


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
    jobs = tuple(_job(source, relative, out, scores) for source, relative in found)
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


def _expand(text: str, out: Path) -> Iterator[tuple[Path, PurePath]]:
    """Yield each image that an input means, and its path below the folder searched."""
    path = Path(text)
    if path.is_file():
        yield path, PurePath(path.name)
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
            yield source, PurePath(name)


def _job(source: Path, relative: PurePath, out: Path, scores: bool) -> Job:
    return Job(
        source,
        labels=out / relative.with_suffix(".png"),
        overlay=out / "overlay" / relative.with_suffix(".jpg"),
        scores=out / "scores" / relative.with_suffix(".npy") if scores else None,
    )


def _refuse_collisions(jobs: Sequence[Job]) -> None:
    sources = {job.source.resolve(): job.source for job in jobs}
    writers: dict[Path, Path] = {}
    for job in jobs:
        for output in job.outputs:
            if output.resolve() in sources:
                raise FullconvError(
                    f"{job.source}: its output {output} would overwrite an input, "
                    f"{sources[output.resolve()]}; choose another --out"
                )
            other = writers.setdefault(output, job.source)
            if other != job.source:
                raise FullconvError(
                    f"{other} and {job.source} would both be written to {output}; "
                    "label them in separate runs, or rename one"
                )
