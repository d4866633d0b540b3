"""The files that a public dataset is made of: given by the user, kept from before, or fetched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fullconv.base.download import WebFile, fetch, verify
from fullconv.base.errors import FullconvError
from fullconv.base.progress import SILENT, Reporter
from fullconv.datasets.archives import unpack


@dataclass(frozen=True, kw_only=True)
class Source(WebFile):
    """A file of a public dataset.

    Attributes:
        key: its name among the sources of a dataset.
        roots: folders of the unpacked archive that may hold its contents; the first with `marker`
            does. None: the file is no archive.
        marker: a path below one of `roots`.
        wanted: patterns of the archive's members that are unpacked; "*" also matches "/".
    """

    key: str
    roots: tuple[str, ...] = ()
    marker: str = ""
    wanted: tuple[str, ...] = ("*",)

    def root_in(self, folder: Path) -> Path | None:
        """Return the folder in `folder` that holds this file's contents unpacked, if any does."""
        places = (folder / root for root in self.roots)
        return next((place for place in places if (place / self.marker).exists()), None)

    def require_root(self, folder: Path, archive: Path) -> Path:
        """Return the same, of the folder into which `archive` was unpacked.

        Raises:
            FullconvError: it holds something else.
        """
        root = self.root_in(folder)
        if root is None:
            raise FullconvError(
                f"{archive}: holds no {self.roots[0]}/{self.marker}; it is not the archive it "
                "should be: remove it and run the same command again"
            )
        return root


@dataclass(frozen=True)
class Sources:
    """The sources of a dataset, whose contents are found by their keys.

    Attributes:
        every: the sources.
        downloads: the folder of fetched files, and of files that the user put there.
        unpacked: the folder of unpacked archives.
        given: the user's own folder of files, packed or unpacked; nothing is changed in it.
        reporter: shows progress, and warns of what could not be verified.
    """

    every: Sequence[Source]
    downloads: Path
    unpacked: Path
    given: Path | None = None
    reporter: Reporter = SILENT

    def find(self, key: str) -> Path | None:
        """Return the file or folder of a source, None if it is not here yet.

        Raises:
            FullconvError: it is here, but is not what it should be.
        """
        source = self._source(key)
        for folder in (self.given, self.downloads):
            if folder is None:
                continue
            if root := source.root_in(folder):
                return root
            if (path := folder / source.file).is_file():
                verify(path, source, self.reporter)
                return self._opened(path, source)
        return None

    def provide(self, key: str) -> Path:
        """Return the file or folder of a source, fetched if it is not here yet.

        Raises:
            FullconvError: what came is not what it should be.
            WorkFailedError: it could not be fetched.
        """
        source = self._source(key)
        return self.find(key) or self._opened(
            fetch(source, self.downloads, reporter=self.reporter), source
        )

    def _source(self, key: str) -> Source:
        return next(source for source in self.every if source.key == key)

    def _opened(self, path: Path, source: Source) -> Path:
        if not source.roots:
            return path
        folder = self.unpacked / source.key
        if not folder.exists():
            unpack(path, folder, source.wanted, reporter=self.reporter)
        return source.require_root(folder, path)
