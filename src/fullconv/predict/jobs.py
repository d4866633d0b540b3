"""Which files to label, and where the results of each go: settled before anything starts."""

from __future__ import annotations

import os
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from fullconv.base.errors import FullconvError, few_named, nearest
from fullconv.base.images import IMAGE_SUFFIXES, Encoded
from fullconv.base.progress import SILENT, Reporter
from fullconv.base.remote_files import Remote
from fullconv.predict.inputs import images_below, images_of

PNG = ".png"
TIF = (".tif", ".tiff")

ImageFile = Path | Remote | Encoded


class Results(NamedTuple):
    """Where the results of one image and one head go.

    Attributes:
        labels: the label image.
        overlay: the tinted photograph.
        scores: the probabilities; None if they are not asked for. Of a raster a raster, too.
    """

    labels: Path
    overlay: Path
    scores: Path | None


@dataclass(frozen=True, slots=True)
class Job:
    """One image to label.

    Attributes:
        source: the image, or the first input of the net: on this machine, elsewhere, in memory.
        name: path of its results below `out`, without suffix.
        out: folder of all results.
        with_scores: whether probabilities are asked for.
        heads: names of the net's heads if it has several; each has a folder of its own in `out`.
        others: for each further input of the net, the files that have the image's name: one, if
            all is well.
        suffix: of the label image: ".png", or ".tif" of a raster.
    """

    source: ImageFile
    name: str
    out: Path
    with_scores: bool = False
    heads: tuple[str, ...] = ()
    others: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    suffix: str = PNG

    @property
    def path(self) -> Path:
        """The image's file on this machine.

        Raises:
            FullconvError: it lies elsewhere.
        """
        if not isinstance(self.source, Path):
            raise FullconvError(f"{self.source}: lies elsewhere; that is for files of this machine")
        return self.source

    @property
    def results(self) -> tuple[Results, ...]:
        """Where the results of each head go."""
        return tuple(
            Results(
                folder / f"{self.name}{self.suffix}",
                folder / "overlay" / f"{self.name}.jpg",
                folder / "scores" / f"{self.name}{self._scores}" if self.with_scores else None,
            )
            for folder in ([self.out / head for head in self.heads] or [self.out])
        )

    @property
    def _scores(self) -> str:
        """Return the suffix of the probabilities."""
        return ".npy" if self.suffix == PNG else self.suffix

    @property
    def outputs(self) -> tuple[Path, ...]:
        """All files that will be written."""
        return tuple(path for results in self.results for path in results if path is not None)


def plan(
    inputs: Sequence[str],
    out: Path,
    *,
    scores: bool = False,
    heads: Sequence[str] = (),
    further: Mapping[str, Path] | None = None,
    is_raster: Callable[[Path], bool] = lambda _: False,
    elsewhere: str | None = None,
    written: bool = True,
    reporter: Reporter = SILENT,
) -> tuple[Job, ...]:
    """Find the images that `inputs` mean and assign their outputs below `out`.

    An input is what `images_of` knows: a file, a folder, a pattern, an address, a list of paths.

    Args:
        inputs: as typed.
        out: folder of all results.
        scores: whether probabilities are asked for.
        heads: names of the net's heads if it has several.
        further: folders of the net's further inputs by name, whose files have the same relative
            paths as the images but for the suffix.
        is_raster: tells whether an image's labels become a raster.
        elsewhere: address of the folder to which all results go from `out`; None: they stay.
        written: whether there will be results; if not, images may share their names.
        reporter: tells which links to folders are passed over.

    Raises:
        FullconvError: an input isn't there, no image was found, or an output would collide with
            another or overwrite an input; the message names both.
    """
    again: list[Path] = []
    found = dict.fromkeys(
        pair for text in inputs for pair in images_of(text, elsewhere or out, again)
    )
    if not found:
        suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
        raise FullconvError(f"{few_named(inputs)}: no images found (looked for {suffixes})")
    named = {of: _by_name(of, folder, again) for of, folder in (further or {}).items()}
    for link in dict.fromkeys(again):
        reporter.warn(f"note: {link}: leads to a folder that is searched already: passed over")
    jobs = tuple(
        Job(
            source,
            name,
            out,
            scores,
            tuple(heads),
            {of: tuple(files.get(name, ())) for of, files in named.items()},
            TIF[0] if isinstance(source, Path) and is_raster(source) else PNG,
        )
        for source, name in found
    )
    if written:
        _refuse_collisions(jobs, elsewhere)
    return jobs


def further_folders(given: Sequence[str], inputs: Sequence[str]) -> dict[str, Path]:
    """Read ``NAME=DIR`` for each of a net's inputs but the first one.

    Args:
        given: as typed.
        inputs: names of the net's inputs.

    Returns:
        The folders by the inputs' names, in the net's order.

    Raises:
        FullconvError: something is malformed, unknown, missing or there twice.
    """
    first, *others = inputs
    folders: dict[str, Path] = {}
    for text in given:
        name, separator, folder = text.partition("=")
        if not (separator and name and folder):
            raise FullconvError(f"--input {text!r}: write NAME=DIR")
        if name == first:
            raise FullconvError(f"--input {text}: {name} is the first input; name its files alone")
        if name not in others:
            known = f"has only {', '.join(inputs)}{nearest(name, others)}"
            raise FullconvError(f"--input {text}: the model knows no input {name!r}; it {known}")
        if name in folders:
            raise FullconvError(f"--input {text}: {name} has a folder already, {folders[name]}")
        folders[name] = Path(folder)
    missing = [name for name in others if name not in folders]
    if missing:
        options = " ".join(f"--input {name}=DIR" for name in missing)
        raise FullconvError(f"the model also needs the input {', '.join(missing)}: add {options}")
    return {name: folders[name] for name in others}


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


def _by_name(of: str, folder: Path, again: list[Path]) -> dict[str, list[Path]]:
    """Return the images below the folder of a further input by their relative path, no suffix."""
    if not folder.is_dir():
        raise FullconvError(f"--input {of}={folder}: no such folder")
    files: dict[str, list[Path]] = defaultdict(list)
    for path, name in images_below(folder, "**", again):
        files[name].append(path)
    return files


def _refuse_collisions(jobs: Sequence[Job], elsewhere: str | None) -> None:
    """Refuse two images whose results have one name, and results in the place of an input."""
    files = [
        path
        for job in jobs
        for path in (job.source, *(path for files in job.others.values() for path in files))
    ]
    sources = {os.path.realpath(path) if isinstance(path, Path) else str(path) for path in files}
    first: dict[str, Job] = {}
    for job in jobs:
        other = first.setdefault(job.name, job)
        if other is not job:
            raise FullconvError(
                f"{other.source} and {job.source} would both be written to "
                f"{_place(job, job.outputs[0], elsewhere)}; label them in separate runs, or "
                "rename one"
            )
        for output in job.outputs:
            place = _place(job, output, elsewhere)
            real = os.path.realpath(output) if elsewhere is None and output.exists() else place
            if real in sources:
                raise FullconvError(
                    f"{place}, a result of {job.source}, would overwrite an input; "
                    "choose another --out"
                )


def _place(job: Job, output: Path, elsewhere: str | None) -> str:
    """Return where a result goes at last."""
    if elsewhere is None:
        return str(output)
    return f"{elsewhere.rstrip('/')}/{output.relative_to(job.out).as_posix()}"
