"""MATLAB's files: version 5 by scipy, version 7.3 (which is HDF5) by h5py; both are an extra."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fullconv.base.errors import FullconvError

_HIGHEST_ID = 65535  # of 16 bits, which all label maps of the datasets fit in
_CHUNK_CACHE = 1 << 28  # chunks may span many images, which are read one after another


def require_readers(name: str, modules: tuple[str, ...]) -> None:
    """Raise FullconvError where a module that the dataset `name` needs is not installed."""
    for module in modules:
        if find_spec(module) is None:
            raise FullconvError(
                f"{name}: needs {module} to read MATLAB's files: pip install 'fullconv[datasets]'"
            )


def read_mat(path: Path, variable: str, field: str = "") -> NDArray[Any]:
    """Read a variable of a version 5 file, or a field of it where it is a struct.

    Raises:
        FullconvError: the file is missing, damaged, or has no such variable or field.
    """
    from scipy.io import loadmat

    try:
        value: NDArray[Any] = loadmat(path, variable_names=[variable])[variable]
        if not field:
            return value
        if value.dtype.names is None or field not in value.dtype.names:
            raise KeyError(field)
        part: NDArray[Any] = value[field][0, 0]
        return part
    except FileNotFoundError:
        raise FullconvError(f"{path}: is missing, though the dataset's list names it") from None
    except (KeyError, IndexError):
        raise FullconvError(
            f"{path}: has no {'.'.join(filter(None, (variable, field)))!r}; it is not the file it "
            "should be"
        ) from None
    except Exception as error:  # scipy raises whatever the damage leads to
        raise _damaged(path, error) from error


def read_ids(path: Path, variable: str, field: str = "", lowest: int = 0) -> NDArray[np.int64]:
    """Read label ids (H, W), at least one, whatever numeric type they are stored in.

    Args:
        path: the file.
        variable: in it.
        field: of it, where it is a struct.
        lowest: the lowest that an id may be; the highest is 65535.

    Raises:
        FullconvError: as for `read_mat`; or the variable holds no label ids.
    """
    stored = read_mat(path, variable, field)
    is_map = stored.ndim == 2 and stored.size > 0 and stored.dtype.kind in "iuf"
    in_range = is_map and not (stored.min() < lowest or stored.max() > _HIGHEST_ID)
    if not in_range or (stored % 1).any():  # what NaN leaves is not 0 either
        raise FullconvError(f"{path}: {variable!r} holds no label ids; it is not the right file")
    return stored.astype(np.int64)


@contextmanager
def opened_hdf5(path: Path) -> Iterator[Any]:
    """Open a version 7.3 file as an h5py.File, whose arrays have MATLAB's axes reversed.

    Raises:
        FullconvError: the file is damaged or lacks what the body reads.
    """
    import h5py

    try:
        with h5py.File(path, "r", rdcc_nbytes=_CHUNK_CACHE) as file:
            yield file
    except KeyError as error:
        raise FullconvError(f"{path}: lacks a variable: {error.args[0]}") from None
    except OSError as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> FullconvError:
    reason = " ".join(f"{error or type(error).__name__}".split())
    return FullconvError(
        f"{path}: can't be read as a MATLAB file ({reason}); remove it and run the same command "
        "again"
    )
