"""Exact padding elision: a net that pads its images by much, without the work that padding makes.

The paper's nets pad the image by 100 pixels of zeros. In this frame a layer's cells are, along each
axis, of three kinds: those that see the image; those near the border, which see the zeros that
convolutions put around the frame; and between them cells that hold one constant a channel. As long
as no cell of a layer is of the first two kinds at once, the first kind alone is worked out, as a
map that goes on beyond its edges as that constant: less the constant it goes on as zeros, so zero
padding is exact, and what a convolution makes of the constant joins its bias. Where this ends the
map is set into its frame, which the zero image's own map fills, and the net runs on as written.

`plan` derives from the graph's grids which cells these are; `layers` makes the layers.
"""

from fullconv.net.rewrites.elision.layers import Elided, elided
from fullconv.net.rewrites.elision.plan import saved_multiply_adds

__all__ = ["Elided", "elided", "saved_multiply_adds"]
