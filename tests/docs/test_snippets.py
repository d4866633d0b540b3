"""Every block of the documents is run, page by page, or says why it is not.

What is not in the repository (a reader's dataset, photos, a trained model) is there in a small
form. What would take minutes is replaced as `INSTEAD` says, and nowhere else.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image
from snippets import Block, Forks, Session, blocks, commands, forks, free_port

from fullconv.base.files import cache_folder
from fullconv.cli import VERBS, command_line
from fullconv.demo.streets import write_synthetic
from fullconv.export.web_runtime import runtime_here

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PHOTOS = ("photo.jpg", "photos/1.jpg", "photos/2.jpg", "holiday/1.jpg", "pool/1.jpg")
NEEDS = {  # of the packages that `dev` has
    "large-images.md": ["rasterio"],
    "rasters.md": ["rasterio", "shapely", "pyogrio"],
    "scaling.md": ["webdataset"],
    "exports.md": ["onnxruntime", "openvino", "nncf"],
}
RUN = ("bash", "python")
SHOWN = ("text", "yaml", "json", "ini", "dockerfile")  # which nobody can run
COMMANDS = typer.main.get_command(command_line(*VERBS))

# What a page says, and what is run in its place.
INSTEAD = (
    # no download, one step of a small net on small images
    (
        "fullconv train ",
        "fullconv train --backbone squeezenet1_1 --weights none --set epochs=1 --set magnify=1 ",
    ),
    (" --set minutes=45", ""),
    (" --set epochs=30", ""),
    ("data synth street", "data synth street --train 8 --val 2 --test 2 --size 48x64"),
    ("--size 512", "--size 32 --block 2"),
    # engines measured by README.md's predict alone, no port that others listen at
    ("fullconv predict runs/", "fullconv predict --engine torch --precision fp32 runs/"),
    ("fullconv serve ", "fullconv serve --port {port} --engine torch --precision fp32 "),
    ("http.server ", "http.server {port} "),
    ("http://127.0.0.1:8000", "http://127.0.0.1:{port}"),
)


def _text(block: Block, port: int) -> str:
    """Return what is run of a block."""
    text = block.text
    for said, run in INSTEAD:
        text = text.replace(said, run.format(port=port))
    return text


# ---- without running anything


@pytest.fixture(params=PAGES, ids=lambda page: page.name)
def page(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_every_block_is_run_or_says_why_not(page: Path) -> None:
    for block in blocks(page):
        assert block.language in (*RUN, *SHOWN), (
            f"{block}: is it bash, python, or none of what can be run: {', '.join(SHOWN)}?"
        )
        assert block.language in RUN or block.reason is None, f"{block}: nobody would run it"


def test_commands_that_are_not_run_could_be(page: Path) -> None:
    for block in blocks(page):
        if block.reason and block.language == "bash":
            for line in commands(block.text):
                _require_parsed(line, f"{block}: {line}")


def _require_parsed(line: str, where: str) -> None:
    """Fail if the command line does not take it."""
    words = shlex.split(line, comments=True)
    if words[:1] != ["fullconv"]:
        return
    command, name = COMMANDS, "fullconv"
    while hasattr(command, "commands"):
        name = words[1]
        assert name in command.commands, where
        command, words = command.commands[name], words[1:]
    try:
        command.make_context(name, words[1:])
    except Exception as error:
        pytest.fail(f"{where}: {getattr(error, 'message', error)}")


def test_options_within_sentences_are_known(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for line in re.findall(r"`(fullconv [a-z][^`]*)`", text):
        words, command = line.split()[1:], COMMANDS
        while hasattr(command, "commands") and words:
            assert words[0] in command.commands, line
            command, words = command.commands[words[0]], words[1:]
        known = {option for each in command.params for option in each.opts} | {"--help"}
        named = {word.partition("=")[0] for word in words if re.match("--[a-z]", word)}
        assert named <= known, line


def test_what_is_replaced_is_there() -> None:
    shown = "\n".join(block.text for page in PAGES for block in blocks(page))
    assert not [said for said, _ in INSTEAD if said not in shown]


# ---- running


def _photo(seed: int) -> Image.Image:
    from exports import photo

    return Image.fromarray(photo((48, 64), seed))


def _labelme(folder: Path, count: int = 10) -> None:
    """Write annotations as labelme does: a square on each image, of one of three labels."""
    folder.mkdir()
    for index in range(count):
        name = f"{index:04}.png"
        _photo(index).save(folder / name)
        shape = {"label": ("car", "bus", "sign")[index % 3], "shape_type": "polygon"}
        points = [[8, 8], [8, 30], [40, 30], [40, 8]]
        told = {"version": "5.5.0", "flags": {}, "imagePath": name, "imageData": None}
        size = {"imageHeight": 48, "imageWidth": 64}
        shapes = [{**shape, "points": points, "group_id": None, "flags": {}}]
        text = json.dumps({**told, **size, "shapes": shapes})
        (folder / name).with_suffix(".json").write_text(text)


def _land(folder: Path) -> None:
    """Write a raster with a place on the earth, and polygons of what grows there."""
    import pyogrio
    import shapely
    from rasters import PLACE, noise, write

    write(folder / "scene.tif", noise((192, 256)), **PLACE)
    left, top = PLACE["transform"].c, PLACE["transform"].f
    shapes = [shapely.box(left + 64 * n, top - 90, left + 64 * n + 40, top) for n in range(2)]
    pyogrio.raw.write(
        folder / "fields.gpkg",
        shapely.to_wkb(shapes),
        [np.array(["maize", "wheat"], object)],
        ["crop"],
        crs=PLACE["crs"],
        geometry_type="Polygon",
    )


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    """What runs commands."""
    if os.name != "posix" or shutil.which("bash") is None:
        pytest.skip("needs bash")
    with forks(tmp_path_factory.mktemp("tools")) as started:
        yield started


@pytest.fixture(scope="module")
def environment(tools: Forks, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What commands find: caches of their own, in which is what runs nets in browsers."""
    cache = tmp_path_factory.mktemp("cache")
    own = cache_folder()
    for kept in own.glob("onnxruntime-web-*") if own else ():
        (cache / kept.name).symlink_to(kept)
    path = f"{tools.bin}{os.pathsep}{os.environ['PATH']}"
    more = {"PATH": path, "FULLCONV_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    return {**os.environ, **more, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}


@pytest.fixture(scope="module")
def things(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make what readers have: a dataset, photos, annotations, a model trained on the dataset."""
    folder = tmp_path_factory.mktemp("things")
    write_synthetic(folder / "street", train=8, val=2, test=2, size=(48, 64))
    for index, name in enumerate(PHOTOS):
        (folder / name).parent.mkdir(exist_ok=True)
        _photo(index).save(folder / name)
    _labelme(folder / "annotations")
    with suppress(ImportError):
        _land(folder)
    # Of a trunk that int8 is for: NNCF makes a graph of SqueezeNet that ONNX Runtime refuses.
    text = "fullconv train --data street --out runs/street --backbone mobilenet_v2"
    train = Block(Path("things"), 1, "bash", text, None)
    session = Session(folder, environment, 0)
    session.run(train, _text(train, 0))
    return folder


@pytest.mark.slow
def test_blocks_do_what_they_say(
    page: Path, things: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    own = [block for block in blocks(page) if block.language in RUN and block.reason is None]
    if not own:
        pytest.skip("nothing to run")
    for package in NEEDS.get(page.name, ()):
        pytest.importorskip(package)
    made = set(re.findall(r"--out (\S+)|data synth (\S+)", "\n".join(each.text for each in own)))
    _lay_out(things, tmp_path, {name for pair in made for name in pair if name})
    session = Session(tmp_path, environment, free_port())
    try:
        for block in own:
            if "--format web" in block.text and runtime_here() is None:
                pytest.skip("needs onnxruntime-web: make web-runtime")
            if "curl " in block.text and shutil.which("curl") is None:
                pytest.skip("needs curl")
            session.run(block, _text(block, session.port))
    finally:
        session.close()


def _lay_out(things: Path, folder: Path, made: set[str]) -> None:
    """Copy what readers have, but for what the page makes."""
    own = [
        path.relative_to(things).as_posix() for path in (*things.iterdir(), things / "runs/street")
    ]
    for path in own:
        if path not in {*made, "runs"} and not path.startswith("."):
            source, place = things / path, folder / path
            place.parent.mkdir(exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, place)
            else:
                shutil.copy(source, place)
    (folder / "docs").symlink_to(ROOT / "docs")
