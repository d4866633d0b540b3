"""Inputs and outputs are settled before anything starts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from prediction import depth_image, names, picture, predicted, touch

from fullconv.base.errors import FullconvError
from fullconv.predict.jobs import further_folders, make_folders, plan


def test_folders_are_searched_and_keep_their_relative_paths(tmp_path):
    for name in ("a.jpg", "deep/er/b.PNG", "deep/c.tif", "notes.txt", ".hidden.png", ".d/e.png"):
        touch(tmp_path / "in" / name)
    out = tmp_path / "out"
    jobs = plan([str(tmp_path / "in")], out)
    assert names(jobs, out) == ["a.png", "deep/c.png", "deep/er/b.png"]
    assert jobs[2].outputs == (out / "deep/er/b.png", out / "overlay/deep/er/b.jpg")
    with_scores = plan([str(tmp_path / "in")], out, scores=True)[2]
    assert with_scores.outputs == (*jobs[2].outputs, out / "scores/deep/er/b.npy")


def test_globs_keep_what_lies_below_their_fixed_part(tmp_path):
    for name in ("in/a.jpg", "in/b/c.jpg", "in/b/d/e.jpg", "in/b/d/f.txt"):
        touch(tmp_path / name)
    out = tmp_path / "out"
    assert names(plan([f"{tmp_path}/in/*.jpg"], out), out) == ["a.png"]
    assert names(plan([f"{tmp_path}/in/**/*.jpg"], out), out) == ["a.png", "b/c.png", "b/d/e.png"]
    assert names(plan([f"{tmp_path}/in/b/*/*"], out), out) == ["d/e.png"]


@pytest.mark.parametrize("what", ["in", "in/**", "in/**/*.jpg"])
def test_links_that_lead_back_give_no_image_twice(tmp_path, capsys, what):
    for name in ("in/a.jpg", "in/b/c.jpg"):
        touch(tmp_path / name)
    for name in ("loop", "b/up", "b/twin"):  # with two of them, glob would not end
        (tmp_path / "in" / name).symlink_to(tmp_path / "in")
    out = tmp_path / "out"
    assert names(plan([f"{tmp_path}/{what}"], out), out) == ["a.png", "b/c.png"]
    notes = capsys.readouterr().err.splitlines()
    assert len(notes) == 3 and all("is searched already: passed over" in line for line in notes)


def test_relative_inputs(tmp_path, monkeypatch):
    picture(tmp_path / "in/b/c.jpg")
    monkeypatch.chdir(tmp_path)
    out = Path("out")
    assert names(plan(["in"], out), out) == ["b/c.png"]
    assert names(plan(["*/*/*.jpg"], out), out) == ["in/b/c.png"]
    monkeypatch.chdir(tmp_path / "in")
    assert names(plan(["."], out), out) == ["b/c.png"]


def test_a_name_with_brackets_is_a_file_and_no_pattern(tmp_path):
    picture(tmp_path / "a[1].png")
    picture(tmp_path / "[x]/b.png")
    out = tmp_path / "out"
    assert names(plan([f"{tmp_path}/a[1].png", f"{tmp_path}/[x]"], out), out) == [
        "a[1].png",
        "b.png",
    ]


def test_an_input_named_twice_is_labelled_once(tmp_path):
    picture(tmp_path / "in/a.png")
    inputs = [f"{tmp_path}/in", f"{tmp_path}/in/a.png", f"{tmp_path}/in/*.png"]
    assert len(plan(inputs, tmp_path / "out")) == 1


def test_earlier_results_are_no_inputs(tmp_path):
    picture(tmp_path / "in/a.jpg")
    for _ in range(2):
        summary, _ = predicted([tmp_path / "in"], tmp_path / "in" / "labels")
        assert summary.images == 1


@pytest.mark.parametrize(
    ("files", "inputs"),
    [
        (("in/a.jpg", "in/a.png"), ("in",)),
        (("one/x/a.jpg", "two/x/a.jpg"), ("one", "two")),
        (("one/a.jpg", "two/a.bmp"), ("one/a.jpg", "two/*")),
    ],
)
def test_colliding_outputs_are_refused_naming_both(tmp_path, files, inputs):
    for name in files:
        picture(tmp_path / name)
    out = tmp_path / "out"
    with pytest.raises(FullconvError) as caught:
        plan([str(tmp_path / each) for each in inputs], out)
    assert all(str(tmp_path / name) in str(caught.value) for name in files)
    assert not out.exists()


def test_an_output_that_would_overwrite_an_input_is_refused(tmp_path):
    picture(tmp_path / "in/a.png")
    with pytest.raises(FullconvError, match=r"in/a\.png.* would overwrite an input"):
        plan([f"{tmp_path}/in"], tmp_path / "in")
    picture(tmp_path / "a/overlay/b.jpg")
    picture(tmp_path / "a/b.bmp")
    with pytest.raises(FullconvError, match=r"overlay/b\.jpg, a result of .*b\.bmp"):
        plan([f"{tmp_path}/a"], tmp_path / "a")
    picture(tmp_path / "b.jpg")  # none of its results is called so
    assert len(plan([f"{tmp_path}/b.jpg"], tmp_path)) == 1


def test_missing_inputs_and_folders_without_images_are_refused(tmp_path):
    with pytest.raises(FullconvError, match=r"nothing\.jpg: no such file"):
        plan([f"{tmp_path}/nothing.jpg"], tmp_path / "out")
    for empty in (tmp_path, f"{tmp_path}/*.jpg"):
        with pytest.raises(FullconvError, match="no images found"):
            plan([str(empty)], tmp_path / "out")


@pytest.mark.parametrize("where", ["file", "file/below", "/proc/nowhere"])
def test_an_unwritable_out_is_refused(tmp_path, where):
    picture(tmp_path / "a.png")
    (tmp_path / "file").touch()
    jobs = plan([f"{tmp_path}/a.png"], tmp_path / where)
    with pytest.raises(FullconvError, match=r"can't write there .* choose another --out"):
        make_folders(jobs)


def test_results_never_overwrite_a_further_input(tmp_path):
    picture(tmp_path / "in/a.jpg")
    depth_image(tmp_path / "depth/a.png")
    with pytest.raises(FullconvError, match=r"depth/a\.png.* would overwrite an input"):
        plan([f"{tmp_path}/in"], tmp_path / "depth", further={"depth": tmp_path / "depth"})


def test_a_folder_for_each_further_input():
    names = ("color", "depth", "hha")
    found = further_folders(["hha=h=1", "depth=d"], names)
    assert list(found.items()) == [("depth", Path("d")), ("hha", Path("h=1"))]
    assert further_folders([], ["hha"]) == {}


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ([], "also needs the input depth: add --input depth=DIR"),
        (["depth"], "write NAME=DIR"),
        (["depth="], "write NAME=DIR"),
        (["color=c", "depth=d"], "color is the first input"),
        (["depht=d"], "did you mean depth"),
        (["depth=d", "depth=e"], "depth has a folder already"),
    ],
)
def test_what_is_no_folder_of_an_input_is_refused(given, reason):
    with pytest.raises(FullconvError, match=reason):
        further_folders(given, ("color", "depth"))


@pytest.mark.skipif(os.name != "posix", reason="of POSIX")
def test_a_pipe_named_like_an_image_is_not_opened(tmp_path):
    picture(tmp_path / "in/a.png")
    os.mkfifo(tmp_path / "in/b.png")
    assert predicted([tmp_path / "in"], tmp_path / "out")[0].images == 1
    with pytest.raises(FullconvError, match=r"b\.png: is a pipe, a socket or a device"):
        plan([str(tmp_path / "in/b.png")], tmp_path / "out")
