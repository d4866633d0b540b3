"""Lists of paths, and images that lie elsewhere."""

from __future__ import annotations

import functools
import http.server
import re
import threading

import pytest
from colour_net import ColourNet
from prediction import Heard, by_torch, names, picture

from fullconv.base.errors import FullconvError
from fullconv.base.remote_files import Remote
from fullconv.predict.jobs import make_folders, plan
from fullconv.predict.memory import Memory
from fullconv.predict.stream import label_files


def listed(tmp_path, *lines):
    path = tmp_path / "list.txt"
    path.write_text("\n".join(map(str, lines)) + "\n")
    return str(path)


def test_a_list_keeps_paths_below_the_folder_that_all_have_in_common(tmp_path, monkeypatch):
    text = listed(
        tmp_path, tmp_path / "in/a/1.jpg", tmp_path / "in/b/1.jpg", tmp_path / "in/b/2.png"
    )
    out = tmp_path / "out"
    assert names(plan([text], out), out) == ["a/1.png", "b/1.png", "b/2.png"]
    monkeypatch.chdir(tmp_path)
    text = listed(tmp_path, "in/./a.jpg", tmp_path / "in/b.jpg", "", "s3://in/c.jpg")
    assert [job.name for job in plan([text], out)][2].endswith("in/c")
    text = listed(tmp_path, "in/a.jpg")
    assert names(plan([text], out), out) == ["a.png"]
    text = listed(tmp_path, "in/a.jpg", "in/a.png")
    with pytest.raises(FullconvError, match="would both be written"):
        plan([text], out)


@pytest.mark.parametrize(
    ("encoding", "end"), [("utf-8", "\r\n"), ("utf-8-sig", "\n"), ("utf-16", "\r\n")]
)
def test_lists_that_windows_writes_are_read_as_others(tmp_path, encoding, end):
    paths = [tmp_path / "in/a/é.jpg", tmp_path / "in/b.jpg"]
    (tmp_path / "list.txt").write_bytes("".join(f"{path}{end}" for path in paths).encode(encoding))
    jobs = plan([str(tmp_path / "list.txt")], tmp_path / "out")
    assert [(job.source, job.name) for job in jobs] == list(zip(paths, ("a/é", "b"), strict=True))


@pytest.mark.parametrize(("encoding", "end"), [("utf-8", "\0"), ("utf-16-le", "\n")])
def test_a_list_with_zero_bytes_is_refused(tmp_path, encoding, end):
    """What find -print0 writes, and UTF-16 without its mark."""
    (tmp_path / "list.txt").write_bytes(f"in/a.jpg{end}in/b.jpg{end}".encode(encoding))
    with pytest.raises(FullconvError, match=r"list\.txt: holds zero bytes; write a path on each"):
        plan([str(tmp_path / "list.txt")], tmp_path / "out")


def test_a_line_does_not_lead_out_of_the_results(tmp_path):
    with pytest.raises(FullconvError, match=re.escape("names no file; give paths without '..'")):
        plan([listed(tmp_path, "s3://bucket/a/../../b.png")], tmp_path / "out")


def test_a_folder_elsewhere_keeps_relative_paths_and_leaves_results_out(tmp_path):
    for name in ("b/a.png", "c.png", "out/c.png", "notes.txt"):
        picture(tmp_path / name) if name.endswith("png") else (tmp_path / name).touch()
    root = f"file://{tmp_path}"
    jobs = plan([root], tmp_path / "scratch", elsewhere=f"{root}/out")
    assert [(str(job.source), job.name) for job in jobs] == [
        (f"{root}/b/a.png", "b/a"),
        (f"{root}/c.png", "c"),
    ]
    with pytest.raises(FullconvError, match=r"c\.png, a result of .* would overwrite an input"):
        plan([f"{root}/c.png"], tmp_path / "scratch", elsewhere=root)


@pytest.mark.slow
def test_images_elsewhere_are_labelled_as_those_here(tmp_path):
    """By file, web and list; what isn't there fails alone."""
    (tmp_path / "in").mkdir()
    for at, name in enumerate("ab"):
        picture(tmp_path / f"in/{name}.png", seed=at)
    handler = functools.partial(_Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        web = f"http://127.0.0.1:{server.server_port}/in"
        text = listed(
            tmp_path, f"file://{tmp_path}/in/a.png", f"{web}/b.png?size=7", f"{web}/c.png"
        )
        jobs = plan([text], tmp_path / "out")
        summary, said = labelled(jobs)
        server.shutdown()
    assert (summary.images, summary.failed) == (3, 1)
    assert said == [f"{web}/c.png: no such file"]
    here = plan([str(tmp_path / "in")], tmp_path / "here")
    labelled(here)
    for got, expected in zip(jobs[:2], here, strict=True):
        for one, other in zip(got.outputs, expected.outputs, strict=True):
            assert one.read_bytes() == other.read_bytes()


def labelled(jobs):
    make_folders(jobs)
    bar = Heard(len(jobs))
    net = ColourNet()
    return label_files(by_torch(net), jobs, bar, memory=Memory(net)), bar.lines


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *words):
        pass


def test_sizes_of_a_listing_do_not_make_files_differ():
    assert Remote("s3://a/b", 5) == Remote("s3://a/b")
