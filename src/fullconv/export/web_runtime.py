"""What runs a net in browsers: two files of the npm package onnxruntime-web.

Of its builds this is the smallest that does: WebAssembly alone, with no WebGPU. It is no part of
the repository, since it has 14 MB. `make web-runtime` puts it into the package, and wheels that
are built after that have it in them; else npm fetches it once, or it is brought by hand. Whatever
its way here, it is what the checksums say.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from contextlib import suppress
from pathlib import Path

from fullconv.base.errors import FullconvError, WorkFailedError, one_line
from fullconv.base.files import cache_folder, replacing
from fullconv.base.progress import SILENT, Reporter

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
FILES = {  # and their SHA-256
    "ort.wasm.bundle.min.mjs": "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    "ort-wasm-simd-threaded.wasm": (
        "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2"
    ),
}
VENDORED = Path(__file__).with_name("page") / "ort"
TIMEOUT = 900.0  # seconds for npm to fetch 33 MB

Files = dict[str, bytes]


def runtime_files(given: Path | None = None, reporter: Reporter = SILENT) -> Files:
    """Return the files that run nets in browsers, by name.

    Args:
        given: the npm package's file (.tgz), or a folder that has the files; None: they are taken
            from this package or the user's cache, or else fetched by npm into that cache.
        reporter: is told if something is fetched.

    Raises:
        FullconvError: `given` is something else, or nothing is given and there is no npm.
        WorkFailedError: npm could not fetch the package.
    """
    if given is not None:
        return _of_folder(given) if given.is_dir() else _of_package(given)
    here = runtime_here()
    if here is not None:
        return here
    files, cached = _fetched(reporter), _cached()
    if cached is not None:
        with suppress(OSError):
            _keep(files, cached)
    return files


def runtime_here() -> Files | None:
    """Return the files where this package or the user's cache has them, else None."""
    for folder in (VENDORED, _cached()):
        if folder is not None:
            with suppress(FullconvError):
                return _of_folder(folder)
    return None


def vendor(folder: Path = VENDORED, reporter: Reporter = SILENT) -> None:
    """Put the files into a folder, if they are not there already; raises as `runtime_files`."""
    with suppress(FullconvError):
        _of_folder(folder)
        return
    _keep(runtime_files(reporter=reporter), folder)


def _cached() -> Path | None:
    cache = cache_folder()
    return cache / f"{PACKAGE}-{VERSION}" if cache else None


def _keep(files: Files, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        with replacing(folder / name) as path:
            path.write_bytes(content)


def _of_folder(folder: Path) -> Files:
    try:
        return _checked({name: (folder / name).read_bytes() for name in FILES}, folder)
    except OSError as error:
        raise FullconvError(
            f"{error.filename}: can't be read ({error.strerror}); give the folder dist of "
            f"{PACKAGE} {VERSION}, or its .tgz"
        ) from None


def _of_package(path: Path) -> Files:
    try:
        with tarfile.open(path, "r:gz") as package:
            return _checked({name: _member(package, name) for name in FILES}, path)
    except (OSError, EOFError, KeyError, tarfile.TarError) as error:
        raise FullconvError(
            f"{path}: is no {PACKAGE} {VERSION} ({one_line(error)}); "
            f"`npm pack {PACKAGE}@{VERSION}` fetches it"
        ) from None


def _member(package: tarfile.TarFile, name: str) -> bytes:
    file = package.extractfile(f"package/dist/{name}")
    if file is None:
        raise KeyError(f"{name} is no file in it")
    with file:
        return file.read(100_000_000)


def _checked(files: Files, source: Path) -> Files:
    for name, content in files.items():
        if hashlib.sha256(content).hexdigest() != FILES[name]:
            raise FullconvError(f"{source}: {name} is not that of {PACKAGE} {VERSION}")
    return files


def _fetched(reporter: Reporter) -> Files:
    npm = shutil.which("npm")
    if npm is None:
        raise FullconvError(
            f"{PACKAGE} {VERSION}, which runs nets in browsers, is not here, nor npm to fetch it: "
            f"run `npm pack {PACKAGE}@{VERSION}` where there is npm, and name its file by --runtime"
        )
    reporter.say(f"fetch {PACKAGE} {VERSION} by npm, once (33 MB)")
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", f"{PACKAGE}@{VERSION}", "--silent", "--pack-destination", folder]
        try:
            subprocess.run(
                command, check=True, capture_output=True, text=True, timeout=TIMEOUT, cwd=folder
            )
        except (OSError, subprocess.SubprocessError) as error:
            told = getattr(error, "stderr", None) or str(error)
            raise WorkFailedError(
                f"npm could not fetch {PACKAGE}@{VERSION} ({one_line(Exception(told))}); "
                "fetch it elsewhere by `npm pack`, and name its file by --runtime"
            ) from None
        return _of_package(Path(folder) / f"{PACKAGE}-{VERSION}.tgz")


if __name__ == "__main__":
    try:
        vendor(reporter=Reporter())
    except FullconvError as error:
        sys.exit(str(error))
