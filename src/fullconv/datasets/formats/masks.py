"""Files of masks, of ids or of colours, and lists of what their values mean."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fullconv.base.errors import FullconvError
from fullconv.base.images import ImageReader
from fullconv.base.progress import Reporter
from fullconv.base.settings import shortened
from fullconv.datasets.formats.annotated import Values

IGNORED = -1  # a value that means no class, whatever the format
_MOST_VALUES = 4096
_TABLES = (
    "labelmap.txt",
    "class_dict.csv",
    "_classes.csv",
    "objectInfo150.txt",
    "classes.txt",
    "label_colors.txt",
    "codes.txt",
)


class Table(NamedTuple):
    """What a list of classes says.

    Attributes:
        names: by value or, where `coloured`, by colour: red * 65536 + green * 256 + blue.
        coloured: which it is.
    """

    names: Mapping[int, str]
    coloured: bool


def packed(red: int, green: int, blue: int) -> int:
    """Return a colour as one number."""
    return red << 16 | green << 8 | blue


def unpacked(colour: int) -> tuple[int, int, int]:
    """Return the red, green and blue of a number."""
    return colour >> 16 & 255, colour >> 8 & 255, colour & 255


def is_coloured(path: Path, reader: ImageReader) -> bool:
    """Tell whether a mask holds colours, by its header.

    Raises:
        FullconvError: it is missing or no image.
    """
    return "red" in reader.describe(path).bands


def read_values(path: Path, reader: ImageReader, *, indices: bool = True) -> Values:
    """Read a mask's values, int64 H x W: ids of up to 16 bits, or colours as one number each.

    Args:
        path: the file.
        reader: reads it.
        indices: whether those of a palette are the values; else its colours are.

    Raises:
        FullconvError: it is missing, damaged, or holds neither.
    """
    stored = reader.describe(path)
    if "red" in stored.bands or ("index" in stored.bands and not indices):
        red, green, blue = np.moveaxis(reader.image(path).astype(np.int64), 2, 0)
        colours: Values = red << 16 | green << 8 | blue
        return colours
    if stored.dtype.kind == "u" and stored.bits == 16:
        return reader.values(path)[..., 0].astype(np.int64)
    return reader.mask(path).astype(np.int64)


def found_values(paths: Sequence[Path], reader: ImageReader, reporter: Reporter) -> tuple[int, ...]:
    """Return all values that masks hold, sorted.

    Raises:
        FullconvError: more than masks of classes have; as a rule JPEG has altered them.
    """
    found: set[int] = set()
    with reporter.bar(len(paths), "look for values", unit="masks") as bar:
        for path in paths:
            found.update(np.unique(read_values(path, reader)).tolist())
            if len(found) > _MOST_VALUES:
                raise FullconvError(
                    f"{path}: is no mask of classes, or was altered by compression: there are "
                    f"{len(found):,} different values; save masks as PNG"
                )
            bar.advance()
    return tuple(sorted(found))


def find_table(folders: Iterable[Path]) -> Path | None:
    """Return the first list of classes that lies in one of the folders."""
    paths = (each / name for each in folders for name in _TABLES)
    return next((path for path in paths if path.is_file()), None)


def read_table(path: Path) -> Table:
    """Read a list of classes: a name a line, with a value, or with red, green and blue.

    The name's line may have more columns; without numbers a line's place is its value.

    Raises:
        FullconvError: it is missing or no such list.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise FullconvError(f"{path}: can't be read as a list of classes ({error})") from None
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if path.name == "objectInfo150.txt":
        rows = [line.split("\t") for line in lines[1:]]
        return Table({int(row[0]): row[-1].split(",")[0].strip() for row in rows}, coloured=False)
    if ":" in lines[0] if lines else False:  # labelmap.txt
        return _of_rows(
            [
                [part, *rest.split(":")[0].split(",")]
                for part, _, rest in (line.partition(":") for line in lines)
            ]
        )
    rows = [[cell.strip() for cell in row] for row in csv.reader(lines, skipinitialspace=True)]
    if (
        rows
        and not any(cell.isdigit() for cell in rows[0])
        and any(cell.isdigit() for row in rows[1:] for cell in row)
    ):
        rows = rows[1:]  # the first one is a heading
    if not rows:
        raise FullconvError(f"{path}: is empty; it should list the classes")
    return _of_rows(rows)


def _of_rows(rows: Sequence[Sequence[str]]) -> Table:
    names: dict[int, str] = {}
    coloured = False
    for at, row in enumerate(rows):
        numbers = [int(cell) for cell in row if cell.strip().isdigit()]
        words = [cell.strip() for cell in row if cell.strip() and not cell.strip().isdigit()]
        name = words[0] if words else str(at)
        if len(numbers) >= 3:
            red, green, blue = numbers[-3:]
            names[packed(red, green, blue)] = name
            coloured = True
        else:
            names[numbers[0] if numbers else at] = name
    return Table(names, coloured)


def named(values: Sequence[int], *, coloured: bool) -> dict[int, str | None]:
    """Name values that no list tells of: 0 and 255 are background and foreground, colours #rrggbb.

    255 beside others than 0 means to be ignored.
    """
    if coloured:
        return {value: f"#{value:06x}" for value in values}
    if set(values) <= {0, 255}:
        return {0: "background", 255: "foreground"}
    return {value: None if value == 255 else str(value) for value in values}


def require_named(values: Mapping[int, object], about: Path) -> None:
    """Raise FullconvError where there are more classes than masks of a byte can have."""
    if len(values) > 255:
        few = shortened(list(values)[:3])
        raise FullconvError(f"{about}: holds {len(values)} values ({few}), more than 255 classes")
