import re
import sys

import pytest

from fullconv.cli import main
from fullconv.net.description import describe
from fullconv.net.fcn import FCN
from fullconv.papers.blueprint import PAPER_NETS


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["fullconv", "describe", *words])
    monkeypatch.setenv("COLUMNS", "40")
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.mark.slow
def test_vgg16_as_in_the_paper() -> None:
    """Parameters and receptive field from the paper's Table 1, multiply-adds by hand."""
    net = FCN("vgg16", 32, 21)
    seen = describe(net, (512, 512))
    by_name = {layer.name: layer for layer in seen.layers}
    assert seen.layers[-1].grid.receptive_field == 404
    assert round(seen.parameters / 1e6) == 134
    assert by_name["features.0"].multiply_adds == 512 * 512 * 9 * 3 * 64
    assert by_name["classifier.0"].multiply_adds == 16 * 16 * 7 * 7 * 512 * 4096
    upscore, score = 16 * 16 * 64 * 64 * 21, 16 * 16 * 4096 * 21
    # the upscore's map has one replicated cell on each side
    upscore = 18 * 18 * 64 * 64 * 21
    trunk = sum(layer.multiply_adds for layer in seen.layers)
    assert seen.multiply_adds == trunk + score + upscore


@pytest.mark.slow
def test_describing_leaves_the_net_as_it_was() -> None:
    net = FCN("mobilenet_v2", 8, 5).train()
    describe(net, (33, 65))
    assert net.training
    assert all(module.training for module in net.modules())


def test_sizes_are_those_of_real_features() -> None:
    import torch

    net = FCN("squeezenet1_0", 8, 5).eval()
    seen = describe(net, (101, 67))
    features = net.trunk(torch.zeros(1, 3, *seen.padded))
    last = seen.layers[-1]
    assert last.size == tuple(features[0].shape[2:])
    assert seen.padded == (117, 85)


@pytest.mark.slow
def test_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "squeezenet1_0", "--model", "fcn16s", "--size", "224x224") == 0
    shown = capsys.readouterr().out
    assert "padded right and bottom to 229x229" in shown
    assert re.search(
        r"classifier\.0 +512 +16 +17 +14x14 +x16 to stride 1 +31 +271x271 +30 +0 +2\+0 +frozen",
        shown,
    )


@pytest.mark.slow
def test_the_address_of_published_weights(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "voc-fcn-alexnet", "--size", "16x16") == 0
    shown = capsys.readouterr().out
    assert PAPER_NETS["voc-fcn-alexnet"].released in shown
    assert "fullconv convert --net voc-fcn-alexnet" in shown
    assert run(monkeypatch, "voc-fcn-googlenet", "--size", "16x16") == 0
    assert "convert" not in capsys.readouterr().out  # there are none


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["resnet8"], "unknown net or backbone 'resnet8'; did you mean resnet18"),
        (["voc-fcn4s"], "unknown net or backbone 'voc-fcn4s'; did you mean voc-fcn8s or voc-fcn"),
        (["voc-googlenet"], "did you mean voc-fcn-googlenet or googlenet"),
        (["caffe:vgg"], "there are caffe:vgg16, caffe:caffenet, caffe:googlenet"),
        (["squeezenet1_0", "--model", "fcn32s"], "no layer at stride 32; it has 16, 8, 4"),
        (["resnet18", "--size", "3"], "'3' is no HEIGHTxWIDTH"),
        (["no/such"], "no/such"),
    ],
)
def test_bad_input(
    words: list[str],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert run(monkeypatch, *words) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


def test_of_a_net_in_another_precision() -> None:
    net = FCN("squeezenet1_1", 16, 3)
    expected = describe(net, (40, 50)).multiply_adds
    assert describe(net.double(), (40, 50)).multiply_adds == expected


def test_of_a_net_with_several_heads() -> None:
    net = FCN("squeezenet1_0", 8, heads={"sem": 3, "geo": 2})
    seen = describe(net, (64, 96))
    assert [row.layer for row in seen.scored] == [tap.layer for tap in net.taps]
