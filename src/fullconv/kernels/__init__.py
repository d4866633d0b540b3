"""Compiled work: the fused ends of a net, and what lies between convolutions in a training.

Labels and losses come from coarse scores, without full-resolution ones.
"""

from fullconv.kernels.argmax import upsample_argmax
from fullconv.kernels.cross_entropy import upsample_cross_entropy

__all__ = ["upsample_argmax", "upsample_cross_entropy"]
