"""The report, read back as a browser would: its tags, its words, its pictures."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fullconv.measure.borders import WIDTHS, Borders
from fullconv.measure.metrics import Metrics
from fullconv.report.contact import side_by_side
from fullconv.report.figures import HATCH, errors_marked, hatched
from fullconv.report.page import DASH, Example, NetResult, Report, ReportedHead, write_report

CLASSES = ("sky", "road", "pole", "ghost")
PALETTE = ((10, 20, 200), (120, 60, 130), (250, 250, 0), (0, 0, 0))
# ghost is neither in the truth nor predicted: its IU is null
CONFUSIONS = {
    "FCN-32s": [[90, 10, 0, 0], [20, 180, 0, 0], [9, 1, 0, 0], [0, 0, 0, 0]],
    "FCN-16s": [[95, 5, 0, 0], [10, 190, 0, 0], [5, 1, 4, 0], [0, 0, 0, 0]],
    "FCN-8s": [[97, 3, 0, 0], [5, 193, 2, 0], [2, 1, 7, 0], [0, 0, 0, 0]],
}


class Page(HTMLParser):
    """The tags with their attributes and the visible text of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._hidden = False
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._hidden = tag == "style"

    def handle_endtag(self, tag: str) -> None:
        self._hidden = self._hidden and tag != "style"

    def handle_data(self, data: str) -> None:
        if not self._hidden and data.strip():
            self.words.append(" ".join(data.split()))

    @property
    def images(self) -> list[Image.Image]:
        uris = [attributes["src"] or "" for tag, attributes in self.tags if tag == "img"]
        return [Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))) for uri in uris]


def a_log(epochs: int, top: float) -> tuple[dict[str, float | None], ...]:
    """Losses that fall, a mean IU that rises to `top` and is measured every other epoch."""
    return tuple(
        {
            "epoch": float(e),
            "train_loss": 2.0 / e,
            "val_loss": None,
            "val_mean_iu": top * e / epochs if e % 2 == 0 else None,
        }
        for e in range(1, epochs + 1)
    )


def a_report(nets: int = 3, examples: int = 2, size: tuple[int, int] = (40, 60)) -> Report:
    """A report on noise, with the last `nets` of the three."""
    rng = np.random.default_rng(0)
    names = list(CONFUSIONS)[-nets:]

    def labels(values: tuple[int, ...] = (0, 1, 2)) -> np.ndarray:
        return rng.choice(np.array(values, np.uint8), size)

    return Report(
        title="FCN on noise",
        intro="What it learnt.",
        heads=(ReportedHead("labels", CLASSES, PALETTE),),
        ignore_index=255,
        nets=tuple(
            NetResult(
                name,
                a_log(4 + 2 * i, 0.5 + i / 10),
                Metrics.of(np.array(CONFUSIONS[name])).to_dict("test", 12, CLASSES),
                seconds=90.0 * (i + 1),
                parameters=2_236_682,
            )
            for i, name in enumerate(names)
        ),
        examples=tuple(
            Example(
                f"town/{i}",
                f"scene {i}: mean IU 0.{i}",
                rng.integers(0, 256, (*size, 3), np.uint8),
                {"labels": labels((0, 1, 2, 255))},
                tuple({"labels": labels()} for _ in names),
            )
            for i in range(examples)
        ),
        facts=(("seed", "0"), ("machine", "2 cores")),
    )


@pytest.fixture
def page(tmp_path: Path) -> Page:
    write_report(tmp_path / "report.html", a_report())
    return Page(tmp_path / "report.html")


def written(tmp_path: Path, report: Report) -> Page:
    write_report(tmp_path / "report.html", report)
    return Page(tmp_path / "report.html")


def test_needs_nothing_from_elsewhere(page: Page) -> None:
    links = [
        value
        for _, attributes in page.tags
        for name, value in attributes.items()
        if name in {"src", "href", "srcset", "action", "data", "xlink:href"}
    ]
    assert links
    assert all(link and link.startswith(("data:image/", "#")) for link in links)
    assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, _ in page.tags}
    assert not re.search(r"url\((?!#)|@import", page.source)


def test_tells_every_number(page: Page) -> None:
    # worked by hand from CONFUSIONS["FCN-8s"]: 297 of 310 right; IUs 97/107, 193/204, 7/12
    for text in ("0.958", "0.907", "0.946", "0.583", "0.812"):
        assert text in page.words
    assert page.words.count("2.24 M") == 3
    for minutes in ("1.5", "3.0", "4.5", "9 min"):
        assert minutes in page.words
    for confusion in CONFUSIONS.values():
        metrics = Metrics.of(np.array(confusion))
        for value in (*metrics.iu[:3], metrics.mean_accuracy, metrics.frequency_weighted_iu):
            assert f"{value:.3f}" in page.words
    assert "On the test split, 12 images, as the paper defines them." in page.words
    assert {"seed", "0", "machine", "2 cores"} <= set(page.words)


def test_metrics_stand_in_the_papers_order_and_the_best_is_marked(page: Page) -> None:
    heads = ["pixel accuracy", "mean accuracy", "mean IU", "f.w. IU"]
    start = page.words.index("net")
    assert page.words[start + 1 : start + 5] == heads
    marked = re.findall(r"<strong>([\d.]+)</strong>", page.source)
    final = Metrics.of(np.array(CONFUSIONS["FCN-8s"]))
    assert marked == [
        f"{value:.3f}"
        for value in (
            final.pixel_accuracy,
            final.mean_accuracy,
            final.mean_iu,
            final.frequency_weighted_iu,
        )
    ]


def test_classes_fall_by_iu_and_an_absent_one_has_a_dash(page: Page) -> None:
    table = page.source[page.source.index('<table class="bars') :]
    names = re.findall(r'<th scope="row"><div>(\w+)</div>', table)
    assert names == ["road", "sky", "pole", "ghost"]
    ghost = table[table.index("ghost") :].split("</tr>")[0]
    assert ghost.count(DASH) == 3
    assert "bar" not in ghost
    widths = re.findall(r"--v: ([\d.]+)%", table.split("</tr>")[1])
    assert [float(w) for w in widths] == pytest.approx([85.3, 92.2, 94.6], abs=0.06)


def test_confusion_rows_are_percent_of_the_true_class(page: Page) -> None:
    rows = re.findall(r"<tr>\s*<th scope=\"row\">.*?</tr>", page.source, re.DOTALL)
    cells = {row: re.findall(r"<td[^>]*>([^<]*)</td>", row) for row in rows}
    by_name = {re.findall(r'row">([^<]*)<', row)[0]: found for row, found in cells.items()}
    assert by_name["sky"] == ["97", "3", "", ""]
    assert by_name["road"] == ["2", "96", "1", ""]
    assert by_name["pole"] == ["20", "10", "70", ""]
    assert by_name["ghost"] == [DASH] * 4


def test_pictures_stand_in_order_with_the_right_colours(page: Page) -> None:
    report = a_report()
    images = page.images
    assert [image.format for image in images] == (["JPEG"] + ["PNG"] * 4 + ["JPEG"] * 3) * 2
    alts = [attributes["alt"] for tag, attributes in page.tags if tag == "img"]
    errors = [f"errors of {net}" for net in CONFUSIONS]
    assert alts[:8] == [f"town/0: {head}" for head in ("photo", "truth", *CONFUSIONS, *errors)]
    scene = report.examples[0]
    for image, labels in zip(images[1:5], scene.maps(report.heads[0]), strict=True):
        factor = image.width // labels.shape[1]
        assert image.size == (labels.shape[1] * factor, labels.shape[0] * factor)
        shown, large = np.asarray(image.convert("RGB")), labels.repeat(factor, 0).repeat(factor, 1)
        known = large != 255
        np.testing.assert_array_equal(shown[known], np.array(PALETTE)[large[known]])
        assert {tuple(c) for c in shown[~known].tolist()} <= set(HATCH)


def test_the_photo_is_shown_the_right_way_round(tmp_path: Path) -> None:
    photo = np.zeros((40, 60, 3), np.uint8)
    photo[:20, :, 0] = photo[:, 30:, 2] = 255
    report = a_report(examples=1)
    report = replace(report, examples=(replace(report.examples[0], image=photo),))
    shown = np.asarray(written(tmp_path, report).images[0]).astype(int)
    assert np.abs(shown[10, 50] - (255, 0, 255)).max() < 20
    assert np.abs(shown[30, 10]).max() < 20


@pytest.mark.parametrize("classes", [2, 255])
def test_what_is_no_class_is_grey(classes: int) -> None:
    rng = np.random.default_rng(1)
    palette = [tuple(colour) for colour in rng.integers(100, 256, (classes, 3)).tolist()]
    labels = np.full((20, 20), 255, np.uint8)
    labels[:, :5] = classes - 1
    painted = np.asarray(hatched(labels, palette, 255).convert("RGB"))
    assert {tuple(c) for c in painted[:, :5].reshape(-1, 3).tolist()} == {palette[-1]}
    greys = {tuple(c) for c in painted[:, 5:].reshape(-1, 3).tolist()}
    assert greys == (set(HATCH) if classes < 255 else {HATCH[0]})


def test_an_ignored_id_below_the_class_count_is_hatched() -> None:
    painted = np.asarray(hatched(np.zeros((12, 12), np.uint8), PALETTE, 0).convert("RGB"))
    assert {tuple(c) for c in painted.reshape(-1, 3).tolist()} == set(HATCH)


def test_curves_run_from_stage_to_stage(page: Page) -> None:
    _, loss, iu = page.source.split("<svg")
    paths = [points(path) for path in drawn_lines(loss, "train")]
    assert [len(path) for path in paths] == [4, 6, 8]  # one point an epoch
    flat = [x for path in paths for x, _ in path]
    steps = np.diff(flat)
    np.testing.assert_allclose(steps, steps[0], rtol=1e-3)  # 18 epochs on one even axis
    for path in paths:
        assert np.all(np.diff([y for _, y in path]) > 0)  # losses fall: y grows downwards
    assert drawn_lines(loss, "val") == []  # no val loss was measured
    paths = [points(path) for path in drawn_lines(iu, "val")]
    assert [len(path) for path in paths] == [2, 3, 4]  # measured every other epoch
    assert {"0.500", "0.600", "0.700"} <= set(page.words)


def drawn_lines(svg: str, colour: str) -> list[str]:
    return re.findall(rf'<path d="([^"]*)"[^>]*style="fill: none; stroke: var\(--{colour}\)', svg)


def points(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"[ML] (\S+) (\S+)", path)]


def test_the_figure_draws_with_the_pages_colours_only(page: Page) -> None:
    for svg in page.source.split("<svg")[1:]:
        assert not re.search(r"(stroke|fill): #(?!000000)", svg.split("</svg>")[0])


def test_names_are_text_whatever_they_hold(tmp_path: Path) -> None:
    evil = '</style><script>alert(1)</script><img src=x onerror="alert(1)">$\\frac$ &amp;'
    report = a_report(nets=1)
    stage = replace(report.nets[0], name=evil)
    stage.metrics["iu"][evil] = stage.metrics["iu"].pop("sky")
    report = replace(
        report,
        title=evil,
        intro=evil,
        heads=(replace(report.heads[0], classes=(evil, *CLASSES[1:])),),
        nets=(stage,),
        examples=tuple(replace(scene, name=evil, caption=evil) for scene in report.examples),
        facts=((evil, evil),),
    )
    page = written(tmp_path, report)
    assert "script" not in {tag for tag, _ in page.tags}
    assert sum(tag == "img" for tag, _ in page.tags) == 2 * 4
    assert not any("onerror" in attributes for _, attributes in page.tags)
    # title twice, intro, caption and name of two scenes, facts, legend, class, rows, heads, …
    assert sum(words.count(evil) for words in page.words) > 12


def test_what_was_not_measured_is_a_dash(tmp_path: Path) -> None:
    nothing = Metrics.of(np.zeros((4, 4), np.int64)).to_dict("val", 1, CLASSES)
    rows = ({"epoch": 1.0, "train_loss": float("nan"), "val_mean_iu": None},)
    stages = tuple(
        replace(stage, metrics=nothing, log=rows, seconds=float("nan")) for stage in a_report().nets
    )
    page = written(tmp_path, replace(a_report(), nets=stages))
    text = " ".join(page.words)
    assert not re.search(r"\b(nan|None|inf|null)\b", text, re.IGNORECASE)
    assert text.count(DASH) >= 2 + 3 * 5 + 3 * 4
    assert "<svg" not in page.source


def test_one_stage_without_scenes_log_or_facts(tmp_path: Path) -> None:
    report = a_report(nets=1, examples=0)
    report = replace(report, nets=(replace(report.nets[0], log=()),), facts=())
    page = written(tmp_path, report)
    assert "0.958" in page.words
    assert "<strong>" not in page.source  # one net alone is not the best of several
    assert page.images == []
    assert not {"Scenes", "Training", "Settings and circumstances"} & set(page.words)


def test_scenes_of_different_sizes(tmp_path: Path) -> None:
    wide, tall = a_report(examples=1, size=(30, 80)), a_report(examples=1, size=(70, 1))
    page = written(tmp_path, replace(wide, examples=wide.examples + tall.examples))
    assert len(page.images) == 2 * (5 + 3)


def test_many_classes_list_the_worst_confusions(tmp_path: Path) -> None:
    classes = tuple(f"class {i}" for i in range(150))
    confusion = np.diag(np.full(150, 50))
    confusion[7, 30], confusion[9, 8] = 150, 50
    metrics = Metrics.of(confusion).to_dict("test", 1, classes)
    report = a_report(nets=1, examples=0)
    report = replace(
        report,
        heads=(ReportedHead("labels", classes, ((1, 2, 3),) * 150),),
        nets=(replace(report.nets[0], metrics=metrics),),
    )
    page = written(tmp_path, report)
    start = page.words.index("predicted as")
    shown = page.words[start + 3 :][:8]
    assert shown == ["class 7", "class 30", "75.0", "150", "class 9", "class 8", "50.0", "50"]
    assert 'class="matrix' not in page.source


def test_stays_small_even_for_noise(tmp_path: Path) -> None:
    report = a_report(nets=1, examples=8, size=(450, 720))
    rng = np.random.default_rng(2)
    noise = rng.integers(0, 255, (450, 720), np.uint8)
    maps = {"labels": noise}
    scenes = tuple(replace(s, truth=maps, predictions=(maps,)) for s in report.examples)
    palette = tuple(tuple(colour) for colour in rng.integers(0, 256, (255, 3)).tolist())
    report = replace(report, examples=scenes, heads=(replace(report.heads[0], palette=palette),))
    write_report(tmp_path / "report.html", report)
    assert (tmp_path / "report.html").stat().st_size < 4_900_000


@pytest.mark.slow
def test_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report(path, a_report())
    before = path.read_bytes()
    broken = a_report()
    with pytest.raises(ValueError, match="zip"):
        write_report(path, replace(broken, nets=broken.nets[:2]))
    assert path.read_bytes() == before
    occupied = tmp_path / "folder"
    occupied.mkdir()
    with pytest.raises(OSError):
        write_report(occupied, a_report())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "report.html"]


@pytest.mark.slow
def test_the_same_report_gives_the_same_bytes(tmp_path: Path) -> None:
    first = written(tmp_path, a_report()).source
    assert written(tmp_path, a_report()).source == first


@pytest.mark.parametrize("size", [(70, 110), (20, 24)])  # the small one's legend takes two lines
def test_side_by_side_holds_every_picture_at_its_own_pixels(size: tuple[int, int]) -> None:
    report = a_report(size=size)
    sheet = side_by_side(report)
    assert sheet.dtype == np.uint8
    tops = []
    for scene in report.examples:
        places = [find(sheet, scene.image)]
        for labels in scene.maps(report.heads[0]):
            painted = hatched(labels, PALETTE, 255).convert("RGB")
            places.append(find(sheet, np.asarray(painted)))
        assert len({top for top, _ in places}) == 1
        assert len(set(np.diff([left for _, left in places]))) == 1
        tops.append(places[0][0])
    assert tops[1] >= tops[0] + size[0]
    heads, legend = sheet[: tops[0]], sheet[tops[1] + size[0] :]
    assert (heads < 200).any()
    seen = {tuple(c) for c in legend.reshape(-1, 3).tolist()}
    assert {*PALETTE[:3], *HATCH} <= seen


def find(sheet: np.ndarray, picture: np.ndarray) -> tuple[int, int]:
    """The place of the one exact copy of a noisy `picture`."""
    height, width, _ = picture.shape
    windows = np.lib.stride_tricks.sliding_window_view(sheet[: -height + 1], 8, axis=1)
    starts = np.argwhere((windows == picture[0, :8].T).all((2, 3)))
    found = [
        (int(top), int(left))
        for top, left in starts
        if np.array_equal(sheet[top : top + height, left : left + width], picture)
    ]
    assert len(found) == 1
    return found[0]


def test_side_by_side_without_scenes_is_refused() -> None:
    with pytest.raises(ValueError, match="without scenes"):
        side_by_side(a_report(examples=0))


# Several heads

GEO = ReportedHead(
    "geo", ("far", "near", "water"), ((9, 200, 9), (200, 9, 200), (1, 1, 1)), ("water",)
)
GEO_CONFUSION = [[30, 10, 0], [20, 40, 0], [0, 0, 0]]  # IUs 30/60, 40/70, none


def two_headed(stages: int = 2, scenes: int = 2, size: tuple[int, int] = (40, 60)) -> Report:
    """The report on noise with a second head."""
    report, rng = a_report(stages, scenes, size), np.random.default_rng(3)
    geo = Metrics.of(np.array(GEO_CONFUSION)).to_dict("test", 12, GEO.classes)

    def noise() -> np.ndarray:
        return rng.integers(0, 2, size).astype(np.uint8)

    return replace(
        report,
        heads=(ReportedHead("sem", CLASSES, PALETTE), GEO),
        nets=tuple(
            replace(
                stage,
                metrics={
                    "split": "test",
                    "images": 12,
                    "heads": {"sem": stage.metrics, "geo": geo},
                },
            )
            for stage in report.nets
        ),
        examples=tuple(
            replace(
                scene,
                truth={"sem": scene.truth["labels"], "geo": noise()},
                predictions=tuple(
                    {"geo": noise(), "sem": labels["labels"]} for labels in scene.predictions
                ),
            )
            for scene in report.examples
        ),
    )


def test_every_head_has_its_numbers(tmp_path: Path) -> None:
    page = written(tmp_path, two_headed())
    rows = page.source[page.source.index('<table class="metrics"') :].split("</table>")[0]
    sem, geo = rows.split('scope="rowgroup"')[1:]
    assert sem.count("0.958") == 1  # worked by hand in test_tells_every_number
    assert geo.count("0.700") == 2  # 70 of 100 pixels are right, in both nets
    assert f"{(30 / 60 + 40 / 70) / 2:.3f}" in geo
    assert page.words.count("2.24 M") == 2  # a net has its parameters once, whatever its heads
    for heading in (
        "Intersection over union by class, sem",
        "Intersection over union by class, geo",
        "Confusion matrix of FCN-8s, sem",
        "Confusion matrix of FCN-8s, geo",
        "Mean IU, averaged over the heads",
    ):
        assert heading in page.words
    assert "On the test split, 12 images, as the paper defines them." in page.words
    start = page.words.index("Intersection over union by class, geo")
    note = next(words for words in page.words[start:] if "In no mean: water." in words)
    assert "Bars from top to bottom: FCN-16s, FCN-8s." in note


def test_every_head_has_its_pictures_beside_one_photo(tmp_path: Path) -> None:
    report = two_headed()
    page = written(tmp_path, report)
    alts = [attributes["alt"] for tag, attributes in page.tags if tag == "img"]
    columns = ("truth", "FCN-16s", "FCN-8s")
    titles = ["photo", *(f"{column}, {head}" for head in ("sem", "geo") for column in columns)]
    titles += [f"errors of {net}, {head}" for head in ("sem", "geo") for net in columns[1:]]
    assert alts == [f"town/{i}: {title}" for i in (0, 1) for title in titles]
    for index, scene in enumerate(report.examples):
        shown = page.images[11 * index + 1 : 11 * index + 7]
        maps = [labels for head in report.heads for labels in scene.maps(head)]
        palettes = [head.palette for head in report.heads for _ in columns]
        for image, labels, palette in zip(shown, maps, palettes, strict=True):
            factor = image.width // labels.shape[1]
            colours = np.asarray(image.convert("RGB"))[::factor, ::factor]
            known = labels != 255
            np.testing.assert_array_equal(colours[known], np.array(palette)[labels[known]])
    legend = page.source[page.source.index('<ul class="legend">') :].split("</section>")[0]
    assert re.findall(r"</span>(\w+)</li>", legend) == [*CLASSES[:3], "ignored", "far", "near"]


def test_side_by_side_has_a_line_for_each_head() -> None:
    report = two_headed(size=(70, 110))
    sheet = side_by_side(report)
    for scene in report.examples:
        photo = find(sheet, scene.image)
        for line, head in enumerate(report.heads):
            places = [
                find(sheet, np.asarray(hatched(labels, head.palette, 255).convert("RGB")))
                for labels in scene.maps(head)
            ]
            assert len({top for top, _ in places}) == 1
            assert len(set(np.diff([photo[1], *(left for _, left in places)]))) == 1
            assert (places[0][0] > photo[0] + 70) == bool(line)
            assert line or places[0][0] == photo[0]
    seen = {tuple(c) for c in sheet[-60:].reshape(-1, 3).tolist()}
    assert {*PALETTE[:3], *GEO.palette[:2], *HATCH} <= seen


def test_errors_are_orange_on_grey() -> None:
    image = np.full((2, 3, 3), 200, np.uint8)
    truth = np.array([[0, 1, 255], [0, 1, 1]], np.uint8)
    found = np.array([[0, 0, 0], [0, 1, 0]], np.uint8)
    marked = errors_marked(image, truth, found, 2)
    wrong = (marked[..., 0].astype(int) - marked[..., 2]) > 100
    assert wrong.tolist() == [[False, True, False], [False, False, True]]
    assert marked[0, 2].max() < marked[0, 0].min()  # ignored: dark


def test_borders_are_told_where_they_were_measured(tmp_path: Path, page: Page) -> None:
    assert "At borders" not in page.words
    report = a_report(nets=1)
    borders = Borders(np.array([0.25, 0.5, 0.75, np.nan]), {w: 0.5 + w / 100 for w in WIDTHS})
    net = replace(report.nets[0], borders={"labels": borders})
    told = written(tmp_path, replace(report, nets=(net,)))
    words = told.words
    points = re.findall(r'points="([^"]*)"', told.source)[-1].split()
    heights = [210 - 190 * value for value in borders.trimap.values()]
    assert [float(each.split(",")[1]) for each in points] == pytest.approx(heights, abs=0.06)
    assert words[words.index("boundary IU") + 1 :][: len(WIDTHS)] == [f"{w} px" for w in WIDTHS]
    assert "0.500" in words
    assert "82.0" in words
