"""Films, against frames whose labels are known and what PyAV itself reads of the results."""

from __future__ import annotations

import builtins
import signal
from fractions import Fraction

import av
import numpy as np
import pytest
from colour_net import ColourNet
from films import decoded, film, sound_of, start_of
from prediction import Heard, by_torch, pixels_of

from fullconv.base.errors import FullconvError
from fullconv.predict import video
from fullconv.predict.labelling import workers
from fullconv.predict.memory import Memory
from fullconv.predict.run import run
from fullconv.predict.settings import PredictSettings
from fullconv.predict.video import label_films, plan_films

RED, GREEN, BLUE = range(3)


def labels_of(index, size=(48, 64)):
    labels = np.full(size, index % 2)
    labels[size[0] // 2 :] = BLUE
    labels[: size[0] // 2, : size[1] // 2] = RED
    return labels


def labelled(path, out, net=None):
    """Label a film by the net of colours; return the summary and what was said."""
    net = net or ColourNet()
    films = plan_films([str(path)], out, scores=False, heads=(), net_inputs=net.inputs)
    films.make_folders()
    bar = Heard(films.frames)
    return label_films(by_torch(net), films, bar, memory=Memory(net)), bar.lines


@pytest.mark.parametrize("size", [(48, 64), (36, 52)])
def test_frames_become_labels_and_an_overlay_with_the_sound(tmp_path, size):
    source = film(tmp_path / "street.mp4", size=size)
    summary, said = labelled(source, tmp_path / "out")
    assert (summary.images, summary.failed, said) == (10, 0, [])
    names = sorted(path.name for path in (tmp_path / "out/street").iterdir())
    assert names == [f"{number:06d}.png" for number in range(1, 11)]
    for index in range(10):
        found = pixels_of(tmp_path / f"out/street/{index + 1:06d}.png")
        assert (found == labels_of(index, size)).mean() > 0.98
    assert summary.pixels["labels"].sum() == 10 * size[0] * size[1]
    assert [name for name, _ in summary.unsure["labels"]] == [f"street/{n[:6]}" for n in names]
    times, frames = decoded(tmp_path / "out/overlay/street.mp4")
    assert times == decoded(source)[0]
    assert frames[0].shape == (*size, 3)
    assert np.abs(frames[0][4, 4].astype(int) - (210, 10, 10)).max() < 25  # half red, half class
    assert sound_of(tmp_path / "out/overlay/street.mp4") == sound_of(source)


@pytest.mark.parametrize(("rotation", "turns"), [(90, 1), (180, 2), (-90, 3)])
def test_a_turned_film_is_labelled_upright(tmp_path, rotation, turns):
    labelled(film(tmp_path / "a.mp4", rotation=rotation), tmp_path / "out")
    found = pixels_of(tmp_path / "out/a/000002.png")
    expected = np.rot90(labels_of(1), turns)
    assert found.shape == expected.shape
    assert (found == expected).mean() > 0.98
    assert decoded(tmp_path / "out/overlay/a.mp4")[1][0].shape[:2] == expected.shape


@pytest.mark.parametrize(
    ("name", "rotation", "aspect", "expected"),
    [
        ("a.mp4", 0, Fraction(16, 11), Fraction(16, 11)),
        ("a.mkv", 180, Fraction(8, 9), Fraction(8, 9)),
        ("a.mp4", 90, Fraction(4, 3), Fraction(3, 4)),
        ("a.mp4", 0, Fraction(1), None),
    ],
)
def test_pixels_keep_their_shape(tmp_path, name, rotation, aspect, expected):
    labelled(film(tmp_path / name, rotation=rotation, aspect=aspect), tmp_path / "out")
    with av.open(str(tmp_path / "out/overlay/a.mp4")) as file:
        assert file.streams.video[0].sample_aspect_ratio == expected


def test_frames_of_a_variable_rate_keep_their_times(tmp_path):
    times = (0, 1, 2, 5, 6, 11, 13)
    labelled(film(tmp_path / "a.mp4", times=times), tmp_path / "out")
    found, _ = decoded(tmp_path / "out/overlay/a.mp4")
    assert np.allclose(found, np.array(times) / 10)


@pytest.mark.parametrize("name", ["a.ts", "a.mkv"])
def test_an_overlay_starts_at_0_whatever_the_clock_shows(tmp_path, name):
    source = film(tmp_path / name, start=100, sound="mp2")
    summary, said = labelled(source, tmp_path / "out")
    assert (summary.images, summary.failed, said) == (10, 0, [])
    overlay, clock = tmp_path / "out/overlay/a.mp4", start_of(source)
    assert 99.9 < clock <= 100
    assert start_of(overlay) == 0
    assert np.allclose(decoded(overlay)[0], np.subtract(decoded(source)[0], clock), atol=1e-3)
    assert sound_of(overlay)[1] == sound_of(source)[1]


def test_times_of_what_is_missing_are_since_the_start(tmp_path):
    source = film(tmp_path / "a.mkv", start=100, times=range(40), codec="ffv1", sound=None)
    data = source.read_bytes()
    source.write_bytes(data[: len(data) // 2])
    _, said = labelled(source, tmp_path / "out")
    assert said[-1].endswith(" (1.70 s), though it is of 4.00 s: the rest is missing")


def test_odd_sides_and_other_containers(tmp_path):
    source = film(tmp_path / "a.v2.mkv", size=(31, 45), codec="ffv1", sound="pcm_s16le")
    labelled(source, tmp_path / "out")
    assert pixels_of(tmp_path / "out/a.v2/000001.png").shape == (31, 45)
    assert decoded(tmp_path / "out/overlay/a.v2.mp4")[1][0].shape == (32, 46, 3)
    assert b"".join(sound_of(tmp_path / "out/overlay/a.v2.mp4")[1]) == b"".join(sound_of(source)[1])


def test_sound_that_an_mp4_cannot_hold_is_told(tmp_path):
    source = film(tmp_path / "a.mkv", sound="wavpack")
    summary, said = labelled(source, tmp_path / "out")
    assert summary.failed == 0
    assert said == [f"note: {source}: its sound (wavpack) is left out: an MP4 can't hold it"]


def test_what_is_read_of_a_cut_film_is_kept(tmp_path):
    source = film(tmp_path / "a.mkv", times=tuple(range(40)), codec="ffv1", sound=None)
    summary, _ = labelled(source, tmp_path / "whole")
    assert (summary.images, summary.failed) == (40, 0)
    data = source.read_bytes()
    source.write_bytes(data[: len(data) // 2])
    summary, said = labelled(source, tmp_path / "out")
    kept = len(list((tmp_path / "out/a").iterdir()))
    assert 0 < kept < 30
    assert (
        summary.images - summary.failed == kept == len(decoded(tmp_path / "out/overlay/a.mp4")[0])
    )
    assert said[-1].startswith(f"{source}: ")
    assert said == [each.reason for each in summary.failures]


def test_spoilt_frames_are_named_and_the_others_done(tmp_path):
    source = film(tmp_path / "a.mp4", times=tuple(range(30)), sound=None)
    data = bytearray(source.read_bytes())
    middle = data.index(b"mdat") + 4 + (len(data) - data.index(b"mdat")) // 3
    data[middle : middle + 250] = b"\xff" * 250
    source.write_bytes(data)
    summary, said = labelled(source, tmp_path / "out")
    assert said
    assert all(line.startswith(f"{source}: ") for line in said)
    assert 15 < summary.images - summary.failed <= 30


def test_a_film_whose_beginning_is_spoilt_is_labelled_from_there_on(tmp_path):
    source = film(tmp_path / "a.mp4", times=tuple(range(30)), sound=None)
    data = bytearray(source.read_bytes())
    begin = data.index(b"mdat") + 4
    data[begin : begin + 900] = b"\xff" * 900
    source.write_bytes(data)
    summary, said = labelled(source, tmp_path / "out")
    assert [line.split(" (")[0] for line in said] == [f"{source}: is damaged after frame 000000"]
    assert 15 < summary.images - summary.failed < 30
    assert len(decoded(tmp_path / "out/overlay/a.mp4")[0]) == summary.images - summary.failed


def test_memory_is_bounded_by_frames_in_hand(tmp_path, monkeypatch):
    read, written, most = [0], [0], [0]
    frames, write = video._Source.read, video._OverlayFilm.frame

    def counted(self, *arguments):
        for frame in frames(self, *arguments):
            read[0] += 1
            most[0] = max(most[0], read[0] - written[0])
            yield frame

    def noted(self, *arguments):
        write(self, *arguments)
        written[0] += 1

    monkeypatch.setattr(video._Source, "read", counted)
    monkeypatch.setattr(video._OverlayFilm, "frame", noted)
    labelled(film(tmp_path / "a.mp4", times=tuple(range(80)), sound=None), tmp_path / "out")
    assert (read[0], written[0]) == (80, 80)
    assert most[0] <= workers() + 1


def test_an_interrupt_leaves_no_half_film(tmp_path, monkeypatch):
    write, count = video._OverlayFilm.frame, [0]

    def interrupted(self, *arguments):
        write(self, *arguments)
        count[0] += 1
        if count[0] == 4:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(video._OverlayFilm, "frame", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            labelled(film(tmp_path / "a.mp4"), tmp_path / "out")
    finally:
        signal.signal(signal.SIGINT, before)
    assert list((tmp_path / "out/overlay").iterdir()) == []


def test_predict_labels_films(tmp_path, capsys, command_line, random_model):
    out = tmp_path / "out"
    source, silent = film(tmp_path / "a.mp4", times=range(3)), tmp_path / "sound.mp4"
    assert command_line("predict", random_model, source, "--out", out, "--scores") == 0
    assert f"3 label images in {out}" in capsys.readouterr().out
    assert np.load(out / "scores/a/000003.npy").shape[1:] == (48, 64)
    assert (out / "unsure.csv").read_text().splitlines()[1].startswith("a/000001,")
    only_sound(silent)
    assert command_line("predict", random_model, silent, source, "--out", tmp_path / "two") == 1
    said = capsys.readouterr().err
    assert f"{silent}: has no pictures; name a film that has\n" in said
    assert "1 of 2 films could not be labelled whole" in said
    assert (tmp_path / "two/overlay/a.mp4").exists()
    assert not (tmp_path / "two/overlay/sound.mp4").exists()


def only_sound(path):
    from films import tone

    with av.open(str(path), "w") as file:
        file.mux(tone(file.add_stream("aac", rate=48000, layout="mono")))


def test_what_cannot_be_is_refused_in_a_line(tmp_path, monkeypatch):
    def refused(*inputs, net_inputs=None, out=tmp_path / "out"):
        with pytest.raises(FullconvError) as caught:
            plan_films(inputs, out, scores=False, heads=(), net_inputs=net_inputs or {"color": 3})
        assert "\n" not in str(caught.value)
        return str(caught.value)

    a = film(tmp_path / "a.mp4", times=range(2), sound=None)
    b = film(tmp_path / "a.mkv", times=range(2), sound=None)
    own = film(tmp_path / "overlay/b.mp4", times=range(2), sound=None)
    assert "separate runs" in refused(str(a), "photo.jpg")
    assert "no such file" in refused(str(tmp_path / "none.mp4"))
    assert "would both be written" in refused(str(a), str(b))
    assert "would be overwritten" in refused(str(own), out=tmp_path)
    assert "needs depth" in refused(str(a), net_inputs={"color": 3, "depth": 1})
    (tmp_path / "text.mp4").write_text("no film")
    with pytest.raises(FullconvError, match="can't be read as a film"):
        video._opened(tmp_path / "text.mp4").__enter__()
    importing = builtins.__import__

    def without_av(name, *arguments, **options):
        if name == "av":
            raise ImportError(name)
        return importing(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without_av)
    assert refused(str(a)).endswith("films need PyAV: pip install 'fullconv[video]'")


def test_python_labels_films_by_the_same_way(tmp_path, random_model):
    source = film(tmp_path / "a.mp4", times=range(2))
    found = run(PredictSettings(random_model, (str(source),), tmp_path / "out", engine="torch"))
    assert (found.done, found.films, found.failures) == (2, 1, ())
