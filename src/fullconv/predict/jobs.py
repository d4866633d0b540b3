"""Which files to label, and where the results of each go: settled before anything starts."""

from __future__ import annotations

import glob
import os
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path, PurePath
from typing import NamedTuple

from fullconv.base.errors import FullconvError, few_named, nearest
from fullconv.base.files import files_below
from fullconv.base.images import IMAGE_SUFFIXES
from fullconv.base.progress import SILENT, Reporter

PNG = ".png"
TIF = (".tif", ".tiff")


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
        source: the image, or the first input of the net.
        name: path of its results below `out`, without suffix.
        out: folder of all results.
        with_scores: whether probabilities are asked for.
        heads: names of the net's heads if it has several; each has a folder of its own in `out`.
        others: for each further input of the net, the files that have the image's name: one, if
            all is well.
        suffix: of the label image: ".png", or ".tif" of a raster.
    """

    source: Path
    name: str
    out: Path
    with_scores: bool = False
    heads: tuple[str, ...] = ()
    others: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    suffix: str = PNG

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
    reporter: Reporter = SILENT,
) -> tuple[Job, ...]:
    """Find the images that `inputs` mean and assign their outputs below `out`.

    An input is a file, a folder (searched recursively) or a glob pattern (``**`` too); images
    found below a folder, or below the fixed part of a pattern, keep their path relative to it.
    What already lies in `out` is no input, unless named itself. No folder is searched twice.

    Args:
        inputs: as typed.
        out: folder of all results.
        scores: whether probabilities are asked for.
        heads: names of the net's heads if it has several.
        further: folders of the net's further inputs by name, whose files have the same relative
            paths as the images but for the suffix.
        is_raster: tells whether an image's labels become a raster.
        reporter: tells which links to folders are passed over.

    Raises:
        FullconvError: an input isn't there, no image was found, or an output would collide with
            another or overwrite an input; the message names both.
    """
    again: list[Path] = []
    found = dict.fromkeys(pair for text in inputs for pair in _expand(text, out, again))
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
            TIF[0] if is_raster(source) else PNG,
        )
        for source, name in found
    )
    _refuse_collisions(jobs)
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


def _expand(text: str, out: Path, again: list[Path]) -> Iterator[tuple[Path, str]]:
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
    elif path.exists():
        raise FullconvError(f"{text}: is a pipe, a socket or a device, not a file")
    else:
        raise FullconvError(f"{text}: no such file or folder")
    results = out.resolve() if base.resolve() != out.resolve() else None
    for source, name in _images(base, pattern, again):
        if results is None or results not in source.resolve().parents:
            yield source, name


def _images(base: Path, pattern: str, again: list[Path]) -> Iterator[tuple[Path, str]]:
    """Yield the images below `base` that match, and their relative paths without suffix."""
    parts = PurePath(pattern).parts
    if "**" in parts:  # glob would follow links that lead back for ever
        below = (path.relative_to(base) for path in files_below(base, again))
        names = [path for path in below if _matches(path.parts, parts)]
    else:
        names = list(map(Path, glob.glob(pattern, root_dir=base)))  # noqa: PTH207 (no hidden files)
    for name in sorted(names, key=Path.as_posix):
        source = base / name
        if source.suffix.lower() in IMAGE_SUFFIXES and source.is_file():
            yield source, name.with_suffix("").as_posix()


def _matches(path: Sequence[str], pattern: Sequence[str]) -> bool:
    """Tell whether a relative path is of a pattern, in which ** stands for any folders, or all."""
    if not pattern:
        return not path
    first, *others = pattern
    if first == "**":
        return not others or any(_matches(path[at:], others) for at in range(len(path)))
    return bool(path) and fnmatch(path[0], first) and _matches(path[1:], others)


def _by_name(of: str, folder: Path, again: list[Path]) -> dict[str, list[Path]]:
    """Return the images below the folder of a further input by their relative path, no suffix."""
    if not folder.is_dir():
        raise FullconvError(f"--input {of}={folder}: no such folder")
    files: dict[str, list[Path]] = defaultdict(list)
    for path, name in _images(folder, "**", again):
        files[name].append(path)
    return files


def _refuse_collisions(jobs: Sequence[Job]) -> None:
    """Refuse two images whose results have one name, and results in the place of an input."""
    sources = {
        os.path.realpath(path)
        for job in jobs
        for path in (job.source, *(path for files in job.others.values() for path in files))
    }
    first: dict[str, Job] = {}
    for job in jobs:
        other = first.setdefault(job.name, job)
        if other is not job:
            raise FullconvError(
                f"{other.source} and {job.source} would both be written to {job.outputs[0]}; "
                "label them in separate runs, or rename one"
            )
        for output in job.outputs:
            if output.exists() and os.path.realpath(output) in sources:
                raise FullconvError(
                    f"{output}, a result of {job.source}, would overwrite an input; "
                    "choose another --out"
                )
