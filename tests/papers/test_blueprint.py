"""What a net's name stands for: the paper's nets, and FCN-32s to 2s on any backbone."""

from __future__ import annotations

import pytest

from fullconv.base.errors import FullconvError
from fullconv.papers.blueprint import NETS, PAPER_NETS, Blueprint


def test_names_resolve_to_stride_backbone_and_recipe() -> None:
    free, fixed = Blueprint.named("fcn4s"), Blueprint.named("voc-fcn-alexnet")
    assert (free.stride, free.backbone, free.recipe) == (4, "mobilenet_v2", "default")
    assert (fixed.stride, fixed.backbone, fixed.recipe) == (32, "caffe:caffenet", fixed.name)
    assert not free.fixed and fixed.fixed
    assert [NETS[name].stride for name in NETS] == [32, 16, 8, 4, 2]


def test_an_unknown_name_is_told_with_the_nearest() -> None:
    with pytest.raises(FullconvError, match=r"'fcn9s' is none of fcn32s.*did you mean fcn8s"):
        Blueprint.named("fcn9s")
    with pytest.raises(FullconvError, match="no net of the paper is called 'fcn8s'"):
        Blueprint.of_paper("fcn8s")


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("fcn8s", ["fcn32s", "fcn16s", "fcn8s"]),
        ("fcn32s", ["fcn32s"]),
        ("voc-fcn8s", ["voc-fcn32s", "voc-fcn16s", "voc-fcn8s"]),
        ("siftflow-fcn16s", ["siftflow-fcn32s", "siftflow-fcn16s"]),
        ("voc-fcn8s-atonce", ["voc-fcn8s-atonce"]),
        ("voc-fcn-alexnet", ["voc-fcn-alexnet"]),
        ("nyud-fcn32s-hha", ["nyud-fcn32s-hha"]),
    ],
)
def test_stages_are_the_same_net_coarser(name: str, stages: list[str]) -> None:
    assert [net.name for net in Blueprint.named(name).stages] == stages


def test_a_net_trained_at_once_names_the_one_trained_in_stages() -> None:
    assert Blueprint.named("voc-fcn8s-atonce").in_stages.name == "voc-fcn8s"
    assert all(net.in_stages is net for net in PAPER_NETS.values() if not net.skip_scales)


def test_the_next_finer_net() -> None:
    finer = {name: net.finer.name if net.finer else None for name, net in NETS.items()}
    assert finer == {
        "fcn32s": "fcn16s",
        "fcn16s": "fcn8s",
        "fcn8s": "fcn4s",
        "fcn4s": "fcn2s",
        "fcn2s": None,
    }


def test_a_free_blueprint_builds_on_any_backbone_for_any_heads() -> None:
    net = Blueprint.named("fcn16s").build({"a": 2, "b": ("x", "y", "z")}, trunk="squeezenet1_0")
    assert (net.stride, list(net.heads)) == (16, ["a", "b"])
    assert net.arguments.trunk == "squeezenet1_0"
    assert net.arguments.padding is None
