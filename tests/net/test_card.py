"""The model card, read back by the Hub's own library."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import ModelCard, ModelCardData

import fullconv
from fullconv.net.card import Background, card, with_licence
from fullconv.net.folder import ModelConfig, read_config

METRICS = {
    "split": "val",
    "images": 7,
    "pixel_accuracy": 0.9,
    "mean_accuracy": 0.7,
    "mean_iu": 0.51239,
    "frequency_weighted_iu": None,
    "iu": {"red": 0.83, "green": 0.12, "[blue]": None},
    "confusion": [[1, 0, 0]] * 3,
}


@pytest.fixture
def config(random_model: Path) -> ModelConfig:
    return read_config(random_model).model_copy(update={"metrics": METRICS})


def read(text: str) -> tuple[ModelCardData, str]:
    known = ModelCard(text)
    return known.data, known.text


def test_metadata_is_what_the_hub_reads(config: ModelConfig) -> None:
    data, _ = read(card(config, Background("Some Street")))
    assert data.library_name == "fullconv"
    assert data.pipeline_tag == "image-segmentation"
    assert data.datasets == ["some-street"]
    assert data.license == "unknown"
    assert "squeezenet1_1" in data.tags
    found = {each.metric_type: each.metric_value for each in data.eval_results}
    assert found == {"mean_iu": 0.5124, "pixel_accuracy": 0.9, "mean_accuracy": 0.7}
    assert {each.dataset_name for each in data.eval_results} == {"Some Street"}
    assert {each.dataset_split for each in data.eval_results} == {"val"}


def test_the_page_tells_classes_metrics_preprocessing_and_limits(config: ModelConfig) -> None:
    known = Background("Some Street", {"labels": ("green",)}, (("epochs", "3"),))
    _, text = read(card(config, known))
    assert "Measured on Some Street, val, 7 images" in text
    assert "| mean IU | 0.512 |" in text
    assert "| 0 | red | #" in text
    assert "| 0.120 (in no mean) |" in text
    assert "| 2 | \\[blue\\] | #" in text
    assert "| mean | 0.485, 0.456, 0.406 |" in text
    assert "| epochs | 3 |" in text
    assert "never measured: \\[blue\\]." in text
    assert "The training looked at val" in text
    assert "not calibrated" in text


def test_of_a_net_that_nobody_measured(random_model: Path) -> None:
    data, text = read(card(read_config(random_model)))
    assert data.eval_results is None
    assert data.datasets is None
    assert "Measured" not in text
    assert "## Training" not in text


def test_of_several_heads_and_inputs(two_headed_model: Path) -> None:
    own = {key: METRICS[key] for key in ("mean_iu", "iu")}
    metrics = {"split": "test", "images": 2, "heads": {"sem": own, "geo": {"mean_iu": 0.25}}}
    config = read_config(two_headed_model).model_copy(update={"metrics": metrics})
    data, text = read(card(config))
    assert [each.metric_name for each in data.eval_results] == ["mean IU (sem)", "mean IU (geo)"]
    assert "## Classes and accuracy of geo" in text
    assert "--input depth=DIR" in text
    assert "looked at val" not in text


def test_names_show_as_they_are() -> None:
    net = fullconv.FCN("squeezenet1_1", 16, 2, classes=["a|b", "<script>*c*"])
    config = ModelConfig(
        format=2,
        net=net.arguments,
        heads={"labels": net.head.labelling},
        ignore_index=255,
        preprocessing=net.preprocessing.to_dict(),
    )
    data, text = read(card(config, Background("street: *the* `first`\n---\nlicense: mit")))
    assert data.license == "unknown"
    assert data.datasets == ["street-the-first-license-mit"]
    assert "| 0 | a\\|b |" in text
    assert "\\<script\\>\\*c\\*" in text


def test_a_licence_is_told_to_programs_and_people(config: ModelConfig) -> None:
    data, text = read(with_licence(card(config), "cc-by-nc-4.0"))
    assert data.license == "cc-by-nc-4.0"
    assert "under cc-by-nc-4.0." in text
    assert "Not stated" not in text
    by_hand = with_licence("Written by hand.\n", "mit")
    assert read(by_hand)[0].license == "mit"
    assert "Written by hand." in by_hand
