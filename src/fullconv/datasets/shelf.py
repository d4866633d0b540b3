"""Where the files of a dataset are found: given by the user, kept from before, or fetched now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fullconv.base.download import fetch, verify
from fullconv.datasets.archives import unpack
from fullconv.datasets.sources import Source


@dataclass(frozen=True)
class Shelf:
    """Finds the contents of sources by their keys.

    Attributes:
        sources: what there is to find.
        downloads: where fetched files are kept; files put there by hand are taken as well.
        unpacked: where archives are unpacked.
        given: the user's own folder of files, packed or unpacked; nothing is changed in it.
        quiet: show no progress.
    """

    sources: Sequence[Source]
    downloads: Path
    unpacked: Path
    given: Path | None = None
    quiet: bool = False

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
                verify(path, source, quiet=self.quiet)
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
            fetch(source, self.downloads, quiet=self.quiet), source
        )

    def _source(self, key: str) -> Source:
        return next(source for source in self.sources if source.key == key)

    def _opened(self, path: Path, source: Source) -> Path:
        if not source.roots:
            return path
        folder = self.unpacked / source.key
        if not folder.exists():
            unpack(path, folder, source.wanted, quiet=self.quiet)
        return source.require_root(folder, path)
