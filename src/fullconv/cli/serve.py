"""``fullconv serve``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fullconv.cli.options import Debug, Device, Quiet, Trust


def command(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL|EXPORT", help="A model folder (or a Hub id), or its export."),
    ],
    *,
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8000,
    token_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Holds the token that clients must send. [FULLCONV_TOKEN]"
        ),
    ] = None,
    engine: Annotated[str, typer.Option(help="auto, torch, openvino or onnxruntime.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32 or bf16.")] = "auto",
    queue: Annotated[
        int, typer.Option(min=1, metavar="N", help="Photos in hand; to more it says 503.")
    ] = 64,
    timeout: Annotated[
        float, typer.Option(min=0.1, metavar="S", help="Seconds that a request may take.")
    ] = 30.0,
    max_bytes: Annotated[int, typer.Option(min=1, metavar="N", help="Refuse larger files.")] = 32
    << 20,
    max_pixels: Annotated[
        int, typer.Option(min=1, metavar="N", help="Refuse larger images.")
    ] = 50_000_000,
    batch: Annotated[
        int, typer.Option(min=1, metavar="N", help="Photos of one size worked out together.")
    ] = 4,
    cors: Annotated[
        list[str] | None,
        typer.Option(metavar="ORIGIN", help="Whose pages may ask, too. May be repeated."),
    ] = None,
    trust: Trust = False,
    device: Device = "auto",
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Label photos over HTTP: a page at /, and an API, which /docs tells of.

    POST /v1/segment takes the bytes of an image file and gives labels (PNG), an overlay (JPEG), or
    JSON with shares and run lengths or polygons, by the header Accept. On SIGTERM, or Ctrl-C, the
    photos in hand are finished.
    """
    from fullconv.base.images import ImageReader
    from fullconv.base.progress import Reporter
    from fullconv.serve.run import serve
    from fullconv.serve.settings import Limits, ServeSettings, read_token

    settings = ServeSettings(
        model=model,
        host=host,
        port=port,
        token=read_token(token_file),
        cors=tuple(cors or ()),
        engine=engine,
        precision=precision,
        device=device,
        trust=trust,
        reader=ImageReader(max_pixels),
        limits=Limits(queue, timeout, max_bytes, batch),
    )
    serve(settings, Reporter(quiet))
