"""Batch normalisation folded into the convolution before it, whose weights then do both."""

from __future__ import annotations

from collections import Counter

from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from fullconv.dense.tracing import module_of
from fullconv.net.rewrites.norms import activation_of


def fold_norms(net: nn.Module) -> None:
    """Fold the batch normalisations of a net in evaluation mode, in place.

    A convolution that a normalisation alone reads gets weights of its own, that do the work of
    both: what comes out differs by rounding only, and a pass over the features is saved. Torch does
    it at no time; other engines do. The activation of a normalisation of timm's takes its place; a
    subclass that may do more than normalise is left alone.
    """
    for part in net.modules():
        if isinstance(part, fx.GraphModule):
            _fold(part)


def _fold(network: fx.GraphModule) -> None:
    uses = Counter(node.target for node in network.graph.nodes if node.op == "call_module")
    for node in list(network.graph.nodes):
        norm, source = module_of(network, node), next(iter(node.all_input_nodes), None)
        if not isinstance(norm, nn.BatchNorm2d) or norm.running_mean is None or source is None:
            continue
        act, convolution = activation_of(norm), module_of(network, source)
        if (
            act is not None
            and isinstance(convolution, nn.Conv2d)
            and len(source.users) == uses[source.target] == uses[node.target] == 1
        ):
            network.set_submodule(str(source.target), fuse_conv_bn_eval(convolution, norm))
            if type(act) is nn.Identity:
                node.replace_all_uses_with(source)
                network.graph.erase_node(node)
            else:
                network.set_submodule(str(node.target), act)
    network.delete_all_unused_submodules()
    network.recompile()
