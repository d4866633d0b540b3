"""What an image takes of memory is known before it is labelled, and never more is taken at once."""

from __future__ import annotations

import threading

import pytest
import torch
from colour_net import ColourNet
from nets import classifier, random_scores
from prediction import Heard, picture
from torch import nn

from fullconv import FCN
from fullconv.base.pipeline import ahead
from fullconv.export.verified import REFERENCE
from fullconv.net.layer_memory import layer_bytes
from fullconv.predict.engines import build
from fullconv.predict.jobs import make_folders, plan
from fullconv.predict.labeller import Labeller
from fullconv.predict.memory import TILE, WHOLE, Memory
from fullconv.predict.room import NoRoomError
from fullconv.predict.stream import first_images, label_files

LARGE = (9000, 12_000)


@pytest.fixture(scope="module")
def mobile():
    torch.manual_seed(0)
    return random_scores(FCN(classifier("mobilenet_v2"), 8, 21)).eval()


@pytest.mark.slow
def test_layers_are_counted_without_data(mobile):
    """Most are alive in the second block, whose expansion has 96 channels at stride 2."""
    bytes_a_pixel = layer_bytes(mobile, (512, 512)) / 512**2
    widest = 4 * (96 + 16 + 32) / 4  # the widest expansion, its input, the skip's
    assert 0.8 * widest < bytes_a_pixel < 1.1 * widest
    assert layer_bytes(mobile, (1024, 512)) == pytest.approx(2 * 512**2 * bytes_a_pixel, rel=0.01)


@pytest.mark.slow
def test_the_photo_that_killed_the_run_takes_24_bytes_a_pixel_at_most(mobile):
    """12,000 x 9,000 took 13.3 GB, 132 bytes a pixel."""
    work = Memory(mobile, 45 << 30).work(LARGE)
    assert work.tiles is not None
    assert work.need <= 24 * LARGE[0] * LARGE[1]
    less = Memory(mobile, 2 << 30).work(LARGE)
    assert less.tiles is not None and less.need < 2 << 30


@pytest.mark.slow
def test_images_that_fit_are_labelled_whole(mobile):
    memory = Memory(mobile, 64 << 30)
    for size in ((360, 480), (3000, 4000), (4096, 8192)):
        assert memory.work(size).tiles is None
    assert memory.work((4096, WHOLE // 4096 + 1)).tiles is not None
    assert Memory(mobile, 1434 << 20).work((3000, 4000)).tiles is not None


@pytest.mark.slow
def test_what_can_t_go_by_tiles_and_does_not_fit_is_refused_with_what_it_takes():
    net = FCN(classifier("mobilenet_v3_small"), 16, 3).eval()
    with pytest.raises(NoRoomError) as caught:
        Memory(net, 1434 << 20).work(LARGE)
    needed = Memory(net, 64 << 30).work(LARGE)
    assert needed.tiles is None
    assert str(caught.value) == (
        f"12000 x 9000 pixels take about {needed.need / 1e9:.1f} GB of memory, and 1.5 GB are "
        "there; make it smaller, raise --memory, or ask for approximate tiles by --tile"
    )


@pytest.mark.slow
def test_a_refused_image_is_named_and_the_others_done(tmp_path):
    picture(tmp_path / "in/a.png", (60, 80))
    picture(tmp_path / "in/b.png", (600, 800))
    net = FCN(classifier("mobilenet_v3_small"), 16, 3).eval()
    label, bar = Labeller(net, build(net, REFERENCE)), Heard(2)
    small, large = (Memory(net, 1 << 40)._need(h * w, 0) for h, w in ((60, 80), (600, 800)))
    memory = Memory(net, int((small + large) / 2) + (8 << 20))
    jobs = plan([str(tmp_path / "in")], tmp_path / "out")
    make_folders(jobs)
    summary = label_files(label, jobs, bar, memory=memory)
    assert [failure.source.name for failure in summary.failures] == ["b.png"]
    (line,) = bar.lines
    assert line.startswith(f"{tmp_path}/in/b.png: 800 x 600 pixels take about 0.1 GB of memory")
    assert (tmp_path / "out/a.png").is_file()


@pytest.mark.slow
def test_tiles_label_as_the_whole_through_the_stream(tmp_path, mobile):
    picture(tmp_path / "in/a.png", (700, 900))

    def labelled(out, memory, **options):
        jobs = plan([str(tmp_path / "in")], out)
        make_folders(jobs)
        label = Labeller(mobile, build(mobile, REFERENCE), **options)
        label_files(label, jobs, Heard(1), memory=memory)
        return (out / "a.png").read_bytes()

    for tta in (False, True):
        little = Memory(mobile, int(1.2 * (32 << 20)) + (78 << 20), tta=tta)
        assert little.work((700, 900)).tiles is not None
        whole = labelled(tmp_path / "whole", Memory(mobile, 64 << 30, tta=tta), tta=tta)
        assert labelled(tmp_path / "tiles", little, tta=tta) == whole


def test_no_more_is_taken_at_once_than_there_is():
    memory, most, held = Memory(ColourNet(), 700), [0], [0]
    lock = threading.Lock()

    def work(need):
        with memory.taken(need):
            with lock:
                held[0] += need
                most[0] = max(most[0], held[0])
            threading.Event().wait(0.001)
            with lock:
                held[0] -= need

    list(ahead(work, [300, 200, 400, 700, 100] * 20, 8))
    assert 400 <= most[0] <= 700
    list(ahead(work, [5000] * 3, 3))  # what is alone may take it all
    assert most[0] == 5000


def test_images_of_which_several_do_not_fit_are_no_samples(tmp_path):
    picture(tmp_path / "a.png", (60, 80))
    picture(tmp_path / "b.png", (600, 800))
    net = FCN(classifier("squeezenet1_1"), 16, 3).eval()
    jobs = plan([str(tmp_path)], tmp_path / "out")
    scarce = Memory(net, 280 << 20)
    samples = first_images(jobs, {"color": 3}, 4, memory=scarce)
    assert [image.shape for image in samples] == [(60, 80, 3)]
    assert len(first_images(jobs, {"color": 3}, 4, memory=Memory(net, 64 << 30))) == 2


def test_where_nobody_knows_how_much_there_is_nothing_is_bounded(monkeypatch, mobile):
    monkeypatch.setattr("fullconv.predict.room.available_memory", lambda: None)
    memory = Memory(mobile)
    assert memory.work((4000, 8000)).tiles is None
    assert memory.work(LARGE).tiles is not None
    assert memory.work(LARGE).need > TILE


def test_a_net_of_no_convolutions_is_counted_too():
    class Deep(ColourNet):
        def coarse(self, images):
            return self.score(nn.functional.pad(images, (1, 1, 1, 1)))

    assert layer_bytes(Deep(), (100, 100)) >= 3 * 4 * 100 * 100
