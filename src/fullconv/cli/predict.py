"""``fullconv predict``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fullconv.cli.options import (
    Debug,
    Device,
    MaxPixels,
    Quiet,
    Trust,
    Tta,
    parse_bytes,
    parse_tile,
    reader_of,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fullconv.base.progress import Reporter
    from fullconv.datasets.drafts import DraftSettings
    from fullconv.net.described import DescribedHead
    from fullconv.predict.outcome import Prediction
    from fullconv.predict.settings import PredictSettings
    from fullconv.predict.stream import Summary
    from fullconv.predict.vectors import VectorSettings


def command(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL|EXPORT", help="A model folder (or a Hub id), or its export."),
    ],
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...",
            help="Images, folders, quoted globs, addresses of such (s3://bucket/photos), or a "
            "NAME.txt with a path or an address on each line; or films.",
        ),
    ],
    *,
    further: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="NAME=DIR",
            help="Folder of a further input of the model (its files are called as the images). "
            "May be repeated.",
        ),
    ] = None,
    out: Annotated[
        str,
        typer.Option(help="Folder for the results; with --ray also an address.", metavar="DIR"),
    ],
    engine: Annotated[str, typer.Option(help="auto, torch, openvino or onnxruntime.")] = "auto",
    precision: Annotated[
        str,
        typer.Option(help="auto, fp32, bf16, or int8, which is calibrated on the first images."),
    ] = "auto",
    scores: Annotated[
        bool,
        typer.Option("--scores", help="Write each pixel's class probabilities, calibrated, too."),
    ] = False,
    tta: Tta = False,
    memory: Annotated[
        str | None,
        typer.Option(
            metavar="BYTES",
            help="What images may take of memory, such as 4GB; larger ones are labelled by exact "
            "tiles. [half of what is free]",
        ),
    ] = None,
    tile: Annotated[
        str | None,
        typer.Option(
            metavar="PIXELS",
            help="Label larger images by tiles of this size, such as 1024 or 512x2048 (height x "
            "width), margins included. They are exact, unless the model looks at the whole image "
            "at once, which is said.",
        ),
    ] = None,
    margin: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="PIXELS",
            help="Let tiles reach only so far beyond what is taken of them: approximate, in less "
            "time. It is said what share of labels that changes.",
        ),
    ] = None,
    draft: Annotated[
        str,
        typer.Option(
            "--format",
            help="png; tif: GeoTIFFs, read and written by windows, so that images may be of any "
            "size, with their georeference; geojson or gpkg: likewise, and polygons of the labels "
            "in OUT/vectors, too; or draft the labels as polygons to be corrected in labelme, "
            "cvat, label-studio, coco or ultralytics form, in OUT/drafts, too.",
        ),
    ] = "png",
    min_area: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="PIXELS",
            help="Polygons of fewer become part of others. [drafts: 16; geojson, gpkg: 0]",
        ),
    ] = None,
    tolerance: Annotated[
        float,
        typer.Option(
            min=0, metavar="PIXELS", help="How far points left out of drafts may lie from them."
        ),
    ] = 0.75,
    simplify: Annotated[
        float,
        typer.Option(
            min=0,
            metavar="PIXELS",
            help="Leave out corners of geojson's or gpkg's polygons that matter less than this, "
            "without gaps between neighbours; 1 takes the steps of pixels away.",
        ),
    ] = 0.0,
    ray: Annotated[
        str | None,
        typer.Option(
            "--ray",
            metavar="[ADDRESS]",
            help="Label on all machines of the Ray cluster that this one is part of ('auto', or "
            "HOST:PORT); without ADDRESS, on this machine alone. Run again, it does what is "
            "missing.",
        ),
    ] = None,
    actors: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="With --ray: how many label at once. [one a machine, or GPU]"
        ),
    ] = None,
    max_pixels: MaxPixels = None,
    trust: Trust = False,
    device: Device = "auto",
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Label every pixel of images.

    Writes, for each image, OUT/NAME.png (8-bit palette, one class id per pixel, the image's size)
    and OUT/overlay/NAME.jpg; with --scores also OUT/scores/NAME.npy (float16, classes x height x
    width, the probabilities). Images below a folder keep their relative paths. The results of a
    model with several heads go to OUT/HEAD instead of OUT.

    Films (such as film.mp4, named by their files) need the extra: pip install 'fullconv[video]'.
    Of each, OUT/film/000001.png and so on are the frames' labels, and OUT/overlay/film.mp4 is the
    film tinted, at its own times and upright, with its sound.

    With --ray many machines label the same files (pip install 'fullconv[ray]' on each, and
    'fullconv[remote]' for addresses); OUT/manifest.parquet says what came of each image, in place
    of unsure.csv.

    Probabilities are softmax(scores / temperature); the temperature is in the model's config.json.
    Training fits it on val: on such images, of labels with probability 0.8 about eight in ten are
    right. Converted models, and those trained by earlier versions, have 1, which promises nothing.
    OUT/unsure.csv tells the share of each image's labels that are unsure: whose probability is
    below 0.75. The share is that of coarse cells, which lie the model's stride apart; of an export
    that gives scores or probabilities, of pixels; one that gives labels alone does not tell it.
    """
    from fullconv.base.progress import Reporter
    from fullconv.predict.room import Tiling
    from fullconv.predict.settings import PredictSettings

    _require_here(out, ray, draft, actors)
    settings = PredictSettings(
        model=model,
        inputs=tuple(inputs),
        out=Path(out),
        further=tuple(further or ()),
        engine=engine,
        precision=precision,
        device=device,
        scores=scores,
        tta=tta,
        reader=reader_of(max_pixels),
        memory=parse_bytes(memory) if memory else None,
        tiling=Tiling(parse_tile(tile) if tile else None, margin),
        format="tif" if draft == "tif" else "png",
        trust=trust,
        cold="torch" not in sys.modules,
    )
    reporter = Reporter(quiet)
    if ray is not None:
        _predict_on_ray(settings, ray, actors, out, reporter)
        return
    vectors = _vectors(draft, min_area or 0, simplify)
    if vectors is not None:
        _predict_vectors(settings, vectors, reporter)
    else:
        _predict(settings, _drafting(draft, min_area, tolerance), reporter)


def _predict(settings: PredictSettings, drafting: DraftSettings | None, reporter: Reporter) -> None:
    """Label images, and draft the labels if they are to be drafted."""
    if drafting is None:
        from fullconv.predict.run import run

        prediction = run(settings, reporter)
    else:
        from fullconv.datasets.drafts import predict_drafts

        drafted = predict_drafts(settings, drafting, reporter)
        prediction = drafted.prediction
    if prediction.done:
        _show(prediction)
        if drafting is not None:
            folders = ", ".join(map(str, drafted.folders))
            print(f"drafts of {drafted.drafts} images for {drafting.tool} in {folders}")
    _require_all(prediction)


def _require_here(out: str, ray: str | None, draft: str, actors: int | None) -> None:
    """Refuse what goes only with --ray, or not with it."""
    from fullconv.base.remote import is_remote

    if ray is None:
        if is_remote(out):
            raise typer.BadParameter(f"--out {out}: results go elsewhere with --ray alone")
        if actors is not None:
            raise typer.BadParameter("--actors is for --ray")
    elif draft != "png":
        raise typer.BadParameter(f"--format {draft}: not with --ray; leave out one of them")


def _predict_on_ray(
    settings: PredictSettings, address: str, actors: int | None, out: str, reporter: Reporter
) -> None:
    """Label images on a cluster."""
    from fullconv.base.remote import is_remote
    from fullconv.predict.ray import RaySettings, run_on_ray

    elsewhere = out if is_remote(out) else None
    prediction = run_on_ray(settings, RaySettings(address, actors, elsewhere), reporter)
    if prediction.done:
        _show(prediction)
    _require_all(prediction)


def _predict_vectors(
    settings: PredictSettings, vectors: VectorSettings, reporter: Reporter
) -> None:
    """Label images as rasters, and write their labels as polygons."""
    from fullconv.base.errors import WorkFailedError
    from fullconv.predict.vectors import predict_vectors

    found = predict_vectors(settings, vectors, reporter)
    if found.prediction.done:
        _show(found.prediction)
        print(f"{found.polygons:,} polygons in {', '.join(map(str, found.folders))}")
    _require_all(found.prediction)
    if found.failures:
        raise WorkFailedError(f"{len(found.failures)} rasters have no polygons")


def _require_all(prediction: Prediction) -> None:
    """Raise WorkFailedError where inputs failed."""
    from fullconv.base.errors import WorkFailedError

    if prediction.failures:
        failed, images = len(prediction.failures), prediction.summary.images
        if prediction.films:
            failed, images = len({each.source for each in prediction.failures}), prediction.films
            raise WorkFailedError(f"{failed} of {images} films could not be labelled whole")
        raise WorkFailedError(f"{failed} of {images} inputs failed")


def _vectors(format_: str, least: int, simplify: float) -> VectorSettings | None:
    from fullconv.predict.settings import FORMATS

    if format_ not in FORMATS:
        from fullconv.predict.vectors import WRITERS, VectorSettings

        for known, _ in WRITERS:
            if format_ == known:
                return VectorSettings(known, least, simplify)
    if simplify:
        raise typer.BadParameter("--simplify is for --format geojson and gpkg")
    return None


def _drafting(tool: str, min_area: int | None, tolerance: float) -> DraftSettings | None:
    from fullconv.predict.settings import FORMATS

    if tool in FORMATS:
        return None
    from fullconv.datasets.drafts import WRITERS, DraftSettings

    for known, _ in WRITERS:
        if tool == known:
            least = DraftSettings(known).min_area if min_area is None else min_area
            return DraftSettings(known, least, tolerance)
    known_tools = ", ".join([*FORMATS, "geojson", "gpkg", *(known for known, _ in WRITERS)])
    raise typer.BadParameter(f"format {tool!r}: is none of {known_tools}")


def _show(prediction: Prediction) -> None:
    """Print what was found, by what, and where it is."""
    several = len(prediction.heads) > 1
    for name, head in prediction.heads.items():
        _show_classes(name if several else None, head, prediction.summary.pixels[name])
        if prediction.places.unsure is not None:
            _show_unsure(prediction.summary, name)
        _warn_of_one_class(head, prediction.summary.dominant(name))
    _show_engine(prediction)
    _show_places(prediction)


def _show_classes(name: str | None, head: DescribedHead, pixels: NDArray[np.int64]) -> None:
    """Print which classes of a head were found, in order of their share."""
    from rich.table import Table
    from rich.text import Text

    from fullconv.base.console import plain_console

    console = plain_console()
    block = "#" if console.options.ascii_only else "█"
    table = Table("class", "share of pixels", box=None, title=name, title_justify="left")
    shares = pixels / pixels.sum()
    for label in shares.argsort()[::-1]:
        if pixels[label]:
            bar = Text(block * round(40 * shares[label]), style=f"rgb{head.palette[label]}")
            table.add_row(Text(head.classes[label]), Text(f"{shares[label]:6.1%}  ") + bar)
    console.print(table)
    absent = [each for each, count in zip(head.classes, pixels, strict=True) if not count]
    if absent:
        print(f"not found: {', '.join(absent)}")


def _show_unsure(summary: Summary, head: str) -> None:
    """Print which share of labels is unsure and, of several images, which have most of them."""
    from fullconv.net.certainty import UNSURE
    from fullconv.predict.stream import printable

    share = f"unsure (probability below {UNSURE:g}): {summary.mean_unsure(head):.1%} of"
    if len(summary.unsure[head]) == 1:
        print(f"{share} this image's labels")
        return
    most = summary.most_unsure(head)
    print(f"{share} labels, on average of the images{'; most in:' if most else ''}")
    for name, own in most:
        print(f"  {own:6.1%}  {printable(name)}")


def _warn_of_one_class(head: DescribedHead, dominant: int | None) -> None:
    if dominant is not None:
        print(
            f"Warning: {head.classes[dominant]} is more than 99.9% of all pixels; are these "
            "the kind of images that the model was trained on?"
        )


def _show_engine(prediction: Prediction) -> None:
    """Say how the labels were worked out, unless plainly."""
    if prediction.verification is not None:
        print(
            f"engine {prediction.config}: on the images that it was measured on, "
            f"{prediction.verification.agreement:.2%} of its labels are those of torch fp32"
        )


def _show_places(prediction: Prediction) -> None:
    """Say where the results are."""
    done, places = prediction.done, prediction.places
    print(
        f"{done} label image{'s' * (done != 1)} in {places.labels}, overlays in {places.overlays}"
        + (f", unsure shares in {places.unsure}" if places.unsure else "")
        + (f", probabilities in {places.scores}" if places.scores else "")
    )
