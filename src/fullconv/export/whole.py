"""What is exported: a net from images as they are stored to the labels of every pixel."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from fullconv.data.info import COLOR
from fullconv.export.coarse import ODD
from fullconv.export.metadata import Output, input_names, output_names
from fullconv.net.fcn import FCN
from fullconv.net.head import Features, probabilities
from fullconv.net.rewrites.magnification import with_merged_magnification
from fullconv.net.surgery import inference_twin

Best = Callable[[Tensor], Tensor]


def highest(scores: Tensor) -> Tensor:
    """Return the class (the first of equals) with the highest of scores N x classes x H x W."""
    return scores.max(1).indices.byte()


def highest_by_comparison(scores: Tensor) -> Tensor:
    """Do the same without an argmax, which is OpenVINO's slowest layer."""
    count = scores.shape[1]
    falling = torch.arange(count, 0, -1, dtype=scores.dtype).reshape(-1, 1, 1)
    nothing = torch.zeros((), dtype=scores.dtype)
    reached = torch.where(scores == scores.amax(1, keepdim=True), falling, nothing)
    return (count - reached.amax(1)).byte()


class Exported(nn.Module):
    """A module that takes images as they are stored, N x H x W x C of each input.

    Attributes:
        net: a twin of what was given, in evaluation mode.
        input_names, output_names: what a graph calls them.
        map_sides: of outputs that are N x channels x H x W, not N x H x W, what H and W are called.
    """

    def __init__(self, net: FCN) -> None:
        super().__init__()
        self.net = inference_twin(net)
        self.input_names = input_names(net.inputs)
        self.output_names: tuple[str, ...] = ()
        self.map_sides: dict[str, tuple[str, str]] = {}
        self.eval()  # in which mode the exporter would leave all parts

    def examples(self) -> tuple[Tensor, ...]:
        """Return a black image of each input to trace the net with, of an odd size."""
        return tuple(
            torch.zeros(1, *ODD, channels, dtype=torch.float32 if wide else torch.uint8)
            for channels, wide in _kinds(self.net)
        )

    def coarse(self, images: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Return the coarse scores by head."""
        return self.net.coarse_of_pixels(joined(images))


class WholeNet(Exported):
    """A net from images to an output of each head.

    Attributes:
        output: "labels" (uint8 N x H x W), or "scores" or "probabilities" (float32, N x classes
            x H x W).
    """

    def __init__(
        self, net: FCN, output: Output, best: Best = highest, *, resizes: bool = False
    ) -> None:
        """Prepare the net.

        Args:
            net: see the class.
            output: likewise.
            best: gives the class of each pixel of scores N x classes x H x W.
            resizes: whether scores are enlarged by a resize, where that gives the same.
        """
        super().__init__(with_merged_magnification(net))
        self.output, self._best = output, best
        self.output_names = output_names(net.heads, output)
        if output != "labels":
            self.map_sides = dict.fromkeys(self.output_names, ("height", "width"))
        # Looked up here, since no weight can be looked at while a graph is traced.
        self._fades = {
            name: head.last_upscore.fade if resizes else None
            for name, head in self.net.heads.items()
        }

    def forward(self, *images: Tensor) -> tuple[Tensor, ...]:
        """Return the output of each head, in the net's order."""
        coarse, size = self.coarse(images), size_of(images)
        return tuple(self._output(name, coarse[name], size) for name in self.net.heads)

    def _output(self, name: str, coarse: Tensor, size: tuple[int, int]) -> Tensor:
        head, fade = self.net.heads[name], self._fades[name]
        upscore = head.last_upscore
        scores = upscore.enlarged(coarse) if fade is None else upscore.resized(coarse)
        if self.output == "labels":  # of less data than scores, to be cropped
            return upscore.cropped(self._best(scores), size, fade or 0)
        scores = upscore.cropped(scores, size, fade or 0)
        return probabilities(scores, head.temperature) if self.output != "scores" else scores


class LabelsAndCells(WholeNet):
    """A net from images to the labels of each head, and after them their coarse scores."""

    def __init__(self, net: FCN, best: Best = highest, *, resizes: bool = False) -> None:
        """Prepare the net (see `WholeNet`)."""
        super().__init__(net, "labels", best, resizes=resizes)
        cells = tuple(f"cells of {name}" for name in net.heads)
        self.output_names = (*self.output_names, *cells)
        self.map_sides = dict.fromkeys(cells, ("rows", "columns"))

    def forward(self, *images: Tensor) -> tuple[Tensor, ...]:
        """Return uint8 N x H x W of each head, then float32 N x classes x h x w of each."""
        coarse, size = self.coarse(images), size_of(images)
        labels = (self._output(name, coarse[name], size) for name in self.net.heads)
        return (*labels, *(coarse[name] for name in self.net.heads))


class Stages(Exported):
    """A net from images to what it works out on its way, stage by stage.

    Attributes:
        stages: of each output, what it is; for people.
    """

    def __init__(self, net: FCN) -> None:
        super().__init__(net)
        taps = reversed(net.taps)
        trunks = [f"{name} " * bool(name) for name in net.trunks]
        self.stages = (
            "preprocessing",
            *(
                f"the {trunk}trunk up to {tap.layer} (stride {tap.stride})"
                for tap in taps
                for trunk in trunks
            ),
            *(f"the scores and fuses of {name}" for name in net.heads),
            *(f"the last upscore of {name}" for name in net.heads),
        )
        self.output_names = tuple(f"stage{index}" for index in range(len(self.stages)))
        self.map_sides = dict.fromkeys(self.output_names, ("height", "width"))

    def forward(self, *images: Tensor) -> tuple[Tensor, ...]:
        """Return N x channels x h x w of each stage."""
        net, size = self.net, size_of(images)
        values = net.preprocessing(joined(images).permute(0, 3, 1, 2)).to(net.dtype)
        features = net.trunk(net._seen(values))
        coarse = {name: head.coarse(features) for name, head in net.heads.items()}
        upscored = [head.upsample(coarse[name], size) for name, head in net.heads.items()]
        return (values, *_flat(reversed(features)), *coarse.values(), *upscored)


def joined(images: tuple[Tensor, ...]) -> Tensor:
    """Return the channels of all inputs one after the other, N x H x W x C."""
    return images[0] if len(images) == 1 else torch.cat([each.float() for each in images], -1)


def size_of(images: tuple[Tensor, ...]) -> tuple[int, int]:
    """Return height and width; while a net is traced they are tensors."""
    return images[0].shape[1], images[0].shape[2]


def _flat(features: Iterator[Features]) -> Iterator[Tensor]:
    for each in features:
        yield from (each,) if isinstance(each, Tensor) else each


def _kinds(net: FCN) -> Iterator[tuple[int, bool]]:
    """Yield the channels of each input, and whether its values may lie outside of bytes.

    Such are an only channel (distances, as a rule), and inputs whose files had more than 8 bits in
    training. Colours always are bytes.
    """
    for name, channels in net.inputs.items():
        measured = channels == 1 or name in net.preprocessing.ranges
        yield channels, name != COLOR and measured
