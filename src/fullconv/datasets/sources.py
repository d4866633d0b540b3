"""What can be fetched: one file of a public dataset, and how its contents are recognised."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fullconv.base.download import WebFile
from fullconv.base.errors import FullconvError


@dataclass(frozen=True, kw_only=True)
class Source(WebFile):
    """A file of a public dataset.

    Attributes:
        key: how converters call it.
        roots: folders in the unpacked archive that may hold its contents, the first that does;
            none: the file is used as it is.
        marker: a path below the right one of `roots`, by which it is recognised.
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
