"""Tiny films with a tone, made by PyAV."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np

COLOURS = ((220, 20, 20), (20, 220, 20), (20, 20, 220))
SIZE = (48, 64)


def frame_of(index, size=SIZE):
    """Red above at the left, a blue lower half; the rest turns green in odd frames."""
    pixels = np.zeros((*size, 3), np.uint8)
    pixels[:] = COLOURS[index % 2]
    pixels[size[0] // 2 :] = COLOURS[2]
    pixels[: size[0] // 2, : size[1] // 2] = COLOURS[0]
    return pixels


def tone(stream, start=0):
    """Encode a second of a sine, from `start` seconds on."""
    wave = np.sin(np.arange(48000) * 2 * np.pi * 440 / 48000)
    if stream.codec_context.format.name == "s16":
        samples = (wave * 30000).astype(np.int16)[None]
    elif stream.codec_context.format.name == "u8p":
        samples = (wave * 100 + 128).astype(np.uint8)[None]
    else:
        samples = wave.astype(np.float32)[None]
    frame = av.AudioFrame.from_ndarray(
        samples, format=stream.codec_context.format.name, layout="mono"
    )
    frame.sample_rate, frame.pts = 48000, start * 48000
    return [*stream.encode(frame), *stream.encode(None)]


def film(
    path,
    *,
    times=tuple(range(10)),
    start=0,
    rotation=0,
    aspect=None,
    sound="aac",
    codec="libx264",
    size=SIZE,
):
    """Write frames at `times`, in tenths of a second after `start`, in seconds.

    `aspect` is the width of a pixel in heights of one, before frames are turned by `rotation`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as file:
        video = file.add_stream(codec, rate=10)
        video.height, video.width = size
        video.pix_fmt = "yuv420p" if codec != "ffv1" else "yuv444p"
        if codec == "libx264":
            video.options = {"g": "3", "bf": "0", "crf": "5"}
        if aspect:
            video.codec_context.sample_aspect_ratio = aspect
        if rotation:
            video.set_display_rotation(rotation)
        voice = file.add_stream(sound, rate=48000, layout="mono") if sound else None
        for index, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(frame_of(index, size), format="rgb24")
            frame.pts, frame.time_base = start * 10 + time, Fraction(1, 10)
            file.mux(video.encode(frame))
        file.mux(video.encode(None))
        if voice is not None:
            file.mux(tone(voice, start))
    return path


def decoded(path):
    """Return seconds and RGB of each frame."""
    with av.open(str(path)) as file:
        frames = list(file.decode(video=0))
        return [float(f.time) for f in frames], [f.to_ndarray(format="rgb24") for f in frames]


def start_of(path):
    """Return what the clock of a film shows at its start, in seconds."""
    with av.open(str(path)) as file:
        return file.start_time / 1e6


def sound_of(path):
    """Return the bytes of the packets of sound, and the codec's name."""
    with av.open(str(path)) as file:
        stream = file.streams.audio[0]
        packets = [bytes(each) for each in file.demux(stream) if each.dts is not None]
        return stream.codec_context.name, packets
