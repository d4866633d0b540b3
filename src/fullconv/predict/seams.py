"""What approximate tiles cost: measured on a part of an image that is labelled whole as well."""

from __future__ import annotations

import threading
from fractions import Fraction
from typing import TYPE_CHECKING

from fullconv.net.described import Size
from fullconv.predict.scenes import PixelScene
from fullconv.predict.tiles import Tiles, read

if TYPE_CHECKING:
    from fullconv.net.fcn import FCN
    from fullconv.predict.labeller import Labeller
    from fullconv.predict.memory import Memory
    from fullconv.predict.scenes import Scene

TIMES = (Fraction(2), Fraction(3, 2), Fraction(5, 4))  # so many tiles are the part, a side


class Seams:
    """Says what share of labels approximate tiles change; measured once, whoever asks."""

    def __init__(self, label: Labeller, memory: Memory) -> None:
        """Measure labels of `label`, within `memory`."""
        self._label, self._memory = label, memory
        self._lock, self._said = threading.Lock(), ""

    def remark(self, scene: Scene, tiles: Tiles) -> str:
        """Return a line on approximate tiles, measured on the first image that was asked about.

        Args:
            scene: the image.
            tiles: into which it is divided.
        """
        with self._lock:
            if not self._said:
                self._said = f"{_reason(self._label.net, tiles)}; {self._measured(scene, tiles)}"
            return self._said

    def _measured(self, scene: Scene, tiles: Tiles) -> str:
        part = self._part(scene.size, tiles.most)
        divided = part and Tiles.sized(self._label.net, part, tiles.most, tiles.reach)
        if not part or not divided:
            return "how many labels that changes can't be measured: no larger part fits in memory"
        share = changed_share(self._label, _middle(scene, part), divided)
        return (
            f"of a part of {part[1]} x {part[0]} pixels, labelled whole as well, that changes "
            f"{share:.2%} of the labels"
        )

    def _part(self, size: Size, most: Size) -> Size | None:
        """Return the size of the part: some tiles a side, if the image and memory have them."""
        for times in TIMES:
            height, width = (
                min(whole, int(times * own)) for whole, own in zip(size, most, strict=True)
            )
            if self._memory.holds_layers((height, width)):
                return height, width
        return None


def changed_share(label: Labeller, scene: PixelScene, tiles: Tiles) -> float:
    """Return the share of labels, 0..1, that are others by tiles; of several heads the highest."""
    whole, divided = (
        label.labels(label.views(scene.pixels, how), scene.size) for how in (None, tiles)
    )
    return max(float((whole[head] != divided[head]).mean()) for head in whole)


def _middle(scene: Scene, part: Size) -> PixelScene:
    rows, columns = (
        range((whole - own) // 2, (whole - own) // 2 + own)
        for whole, own in zip(scene.size, part, strict=True)
    )
    return PixelScene(read(scene, rows, columns, mirrored=False).copy())


def _reason(net: FCN, tiles: Tiles) -> str:
    if tiles.reach.margin is not None:
        return (
            f"its tiles reach {tiles.reach.margin} pixels beyond what is taken of them, as "
            "--margin says, and are approximate"
        )
    assert not (net.vertical.bounded and net.horizontal.bounded)
    return (
        "the model looks at the whole image at once (squeeze-and-excitation, say), which tiles "
        "can't: they are approximate"
    )
