"""``fullconv describe``: a net's layers, geometry and cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from fullconv.cli.options import Debug, Quiet, Trust
from fullconv.cli.tables import show

if TYPE_CHECKING:
    from rich.table import Table

    from fullconv.net.description import Description
    from fullconv.net.fcn import FCN


def command(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL|NAME",
            help="A model folder, a net of the paper (voc-fcn8s), or a backbone to put a net on.",
        ),
    ],
    size: Annotated[
        str, typer.Option(metavar="HxW", help="Size of the image in pixels.")
    ] = "500x500",
    net: Annotated[
        str, typer.Option("--model", help="With a backbone: fcn32s, fcn16s, fcn8s, fcn4s, fcn2s.")
    ] = "fcn8s",
    classes: Annotated[int, typer.Option(help="With a backbone: number of classes.")] = 21,
    trust: Trust = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Print a net's layers, strides, receptive fields, derived crops, parameters and cost."""
    from fullconv.net.description import describe
    from fullconv.papers.blueprint import PAPER_NETS, net_of

    described = net_of(model, net, classes, trust=trust)
    _show(described, describe(described, _size(size)))
    published = PAPER_NETS.get(model)
    if published and published.released:
        print(f"the authors' weights, for fullconv convert --net {model}: {published.released}")


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise typer.BadParameter(f"{text!r} is no HEIGHTxWIDTH in pixels, such as 360x480")
    return int(height), int(width)


def _show(net: FCN, description: Description) -> None:
    name = net.arguments.trunk or "a module"
    heads = ", ".join(
        f"{head.num_classes} classes" + (f" ({which})" if len(net.heads) > 1 else "")
        for which, head in net.heads.items()
    )
    inputs = " and ".join(net.inputs)
    height, width = description.size
    print(
        f"FCN-{net.stride}s on {name}, {inputs} to {heads}, at {height}x{width}: "
        f"{description.parameters / 1e6:.2f} M parameters, "
        f"{description.multiply_adds / 1e9:.2f} G multiply-adds"
    )
    if description.seen != description.size:
        line = "magnified to {}x{}, whose pixels strides, centres and fields count"
        print(line.format(*description.seen))
    reduce = description.reduce
    seen, padded = (
        "x".join(str(-(-side // reduce)) for side in size)
        for size in (description.seen, description.padded)
    )
    if reduce > 1:
        print(
            f"reduced to {seen}, means of {reduce}x{reduce} pixels; strides, centres and fields "
            "count the image's own"
        )
    if padded != seen:
        print(f"padded right and bottom to {padded}")
    show(_layers(description))
    show(_scores(description))


def _layers(description: Description) -> Table:
    from rich.table import Table

    table = Table(title="layers that slide", box=None, title_justify="left", pad_edge=False)
    for head in ("layer", "kind", "window"):
        table.add_column(head)
    heads = ("channels", "cells", "stride", "first\ncentre", "receptive\nfield")
    for head in (*heads, "parameters", "M multiply-\nadds"):
        table.add_column(head, justify="right")
    for layer in description.layers:
        table.add_row(
            layer.name,
            layer.kind,
            layer.window,
            str(layer.channels),
            "{}x{}".format(*layer.size),
            str(layer.grid.stride),
            f"{float(layer.grid.offset):g}",
            str(layer.grid.receptive_field) + ("" if layer.grid.bounded else ", and all"),
            f"{layer.parameters:,}",
            f"{layer.multiply_adds / 1e6:,.1f}",
        )
    return table


def _scores(description: Description) -> Table:
    from rich.table import Table

    table = Table(title="scores and upscores", box=None, title_justify="left", pad_edge=False)
    table.add_column("scored layer")
    for head in ("channels", "stride", "first\ncentre", "cells", "upscore", "kernel", "enlarged"):
        table.add_column(head, justify="right")
    for head in ("crop", "of the\nskip", "edge\ncells"):
        table.add_column(head, justify="right")
    table.add_column("")
    for row in description.scored:
        a = row.alignment
        table.add_row(
            row.layer,
            str(row.channels),
            str(row.grid.stride),
            f"{float(row.grid.offset):g}",
            "{}x{}".format(*row.size),
            f"x{a.factor} to stride {row.grid.stride // a.factor}",
            str(a.kernel),
            "{}x{}".format(*row.enlarged),
            str(a.crop),
            str(a.finer_crop),
            f"{a.before}+{a.after}",
            "learned" if row.learned else "frozen",
        )
    return table
