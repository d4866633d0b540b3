"""Small archives of the public datasets, in the formats and layouts of the real ones."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import scipy.io
from file_server import FileServer
from PIL import Image

from fullconv.datasets.public import PublicDataset

SIFT_FLOW_FOLDER = "spatial_envelope_256x256_static_8outdoorcategories"
Files = Mapping[str, bytes]


def pixels(name: str, shape: tuple[int, ...], top: int = 256) -> np.ndarray:
    """Random values below `top`, another picture for each name."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4])
    return np.random.default_rng(seed).integers(0, top, shape)


def size(name: str) -> tuple[int, int]:
    height, width = pixels(f"size of {name}", (2,), 8)
    return 20 + int(height), 24 + int(width)


def jpeg(name: str) -> bytes:
    return _saved(Image.fromarray(pixels(name, (*size(name), 3)).astype(np.uint8)), "JPEG")


def voc_labels(name: str) -> np.ndarray:
    """Ids 0..20, and 255 here and there, as VOC's borders."""
    labels = pixels(f"mask of {name}", size(name), 22).astype(np.uint8)
    return np.where(labels == 21, np.uint8(255), labels)


def sbd_labels(name: str) -> np.ndarray:
    return pixels(f"sbd of {name}", size(name), 21).astype(np.uint8)


def context_labels(name: str) -> np.ndarray:
    return pixels(f"context of {name}", size(name), 460).astype(np.uint16)


def voc_archive(
    root: str, lists: Mapping[str, Sequence[str]], main: Mapping[str, Sequence[str]] | None = None
) -> bytes:
    """A VOC trainval archive; `lists` are those of Segmentation, `main` those of Main."""
    files = {}
    for task, splits in (("Segmentation", lists), ("Main", main or {})):
        for split, names in splits.items():
            files[f"ImageSets/{task}/{split}.txt"] = "".join(f"{n}\n" for n in names).encode()
    for name in {n for splits in (lists, main or {}) for names in splits.values() for n in names}:
        files[f"JPEGImages/{name}.jpg"] = jpeg(name)
        files[f"Annotations/{name}.xml"] = b"<annotation/>"
    for name in {n for names in lists.values() for n in names}:
        image = Image.fromarray(voc_labels(name))
        image.putpalette(bytes(768))  # 256 colours, as VOC's: 8 bits a pixel
        files[f"SegmentationClass/{name}.png"] = _saved(image, "PNG")
        files[f"SegmentationObject/{name}.png"] = _saved(image, "PNG")
    return tarred({f"{root}/{name}": content for name, content in files.items()})


def sbd_archive(lists: Mapping[str, Sequence[str]]) -> bytes:
    files = {f"{split}.txt": "\n".join(names).encode() for split, names in lists.items()}
    for name in {n for names in lists.values() for n in names}:
        files[f"img/{name}.jpg"] = jpeg(name)
        struct = {"Boundaries": np.zeros((20, 1)), "Segmentation": sbd_labels(name)}
        files[f"cls/{name}.mat"] = mat({"GTcls": {**struct, "CategoriesPresent": [1, 2]}})
        files[f"inst/{name}.mat"] = b"never read"
    rooted = {f"benchmark_RELEASE/dataset/{name}": content for name, content in files.items()}
    return tarred({**rooted, "benchmark_RELEASE/README": b"SBD"}, "w:gz")


def siftflow_archive(names: Sequence[str], test: Sequence[str], root: str = "") -> bytes:
    files = {f"Images/{SIFT_FLOW_FOLDER}/{name}.jpg": jpeg(name) for name in names}
    for name in names:
        semantic, geometric = siftflow_labels(name)
        about = {"names": np.array([["awning"], ["window"]], object)}
        file = f"{SIFT_FLOW_FOLDER}/{name}.mat"
        files[f"SemanticLabels/{file}"] = mat({"S": semantic, **about})
        files[f"GeoLabels/{file}"] = mat({"S": geometric, **about})
    lines = [f"{SIFT_FLOW_FOLDER}\\{name}.jpg\r\n" for name in test]
    files["TestSet1.txt"] = "".join(lines).encode()
    return zipped({f"{root}{name}": content for name, content in files.items()})


def siftflow_labels(name: str) -> tuple[np.ndarray, np.ndarray]:
    """As stored: 0..33 with 0 unlabelled, and 1..3 with -1 unlabelled."""
    semantic = pixels(f"semantic of {name}", size(name), 34).astype(float)
    geometric = pixels(f"geometric of {name}", size(name), 4).astype(np.int16)
    return semantic, np.where(geometric == 0, np.int16(-1), geometric)


def context_archive(names: Sequence[str], classes: Sequence[str]) -> bytes:
    """`classes` are the 459, whose ids count from 1."""
    text = "".join(f"{number}: {name}\n" for number, name in enumerate(classes, 1))
    maps = {f"trainval/{n}.mat": mat({"LabelMap": context_labels(n)}) for n in names}
    return tarred({"labels.txt": text.encode(), **maps}, "w:gz")


def nyud_labeled(count: int) -> bytes:
    """nyu_depth_v2_labeled.mat: HDF5 behind MATLAB's 512 bytes, its axes reversed."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", userblock_size=512) as file:
        arrays = [nyud_picture(index) for index in range(count)]
        for at, name in enumerate(("images", "depths", "labels")):
            file[name] = np.stack([picture[at].T for picture in arrays])
        file["names"] = np.zeros((1, 894), np.uint64)
    return buffer.getvalue()


def nyud_picture(index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Colours (480, 640, 3), metres and ids 0..894 of a picture."""
    small = pixels(f"colours {index}", (48, 64, 3)).astype(np.uint8)
    colours = small.repeat(10, 0).repeat(10, 1)
    colours[0, 0] = index
    metres = (0.7 + pixels(f"metres {index}", (480, 640), 9000) / 1000).astype(np.float32)
    return colours, metres, pixels(f"ids {index}", (480, 640), 895).astype(np.uint16)


def mat(variables: Mapping[str, object]) -> bytes:
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, dict(variables), do_compression=True)
    return buffer.getvalue()


def png(array: np.ndarray) -> bytes:
    return _saved(Image.fromarray(array), "PNG")


def tarred(files: Files, mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def zipped(files: Files) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def served(dataset: PublicDataset, server: FileServer, files: Files) -> PublicDataset:
    """The dataset with `files`, by the names under which they are kept, served by `server`."""
    server.files |= {f"/{name}": content for name, content in files.items()}
    sources = []
    for source in dataset.sources:
        if source.file not in files:
            sources.append(source)
            continue
        digest = hashlib.md5(files[source.file]).hexdigest()
        checksum = source.checksum and replace(source.checksum, digest=digest)
        address = f"{server.address}/{source.file}"
        sources.append(replace(source, addresses=(address,), checksum=checksum))
    return replace(dataset, sources=tuple(sources))


def write_files(folder: Path, files: Files) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def _saved(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()
