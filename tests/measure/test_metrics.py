"""The four metrics against hand-worked numbers and an independent, slow reference."""

from __future__ import annotations

import json
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fullconv.measure.metrics import ConfusionMatrix, Metrics

IGNORE = 255


def counted(truth, predicted, classes):
    matrix = ConfusionMatrix(classes)
    matrix.update(np.asarray(truth, np.uint8), np.asarray(predicted, np.uint8))
    return matrix


def test_hand_worked_example():
    # Ten pixels, three classes, two of them ignored:
    #   truth      0 0 0 0 | 1 1 1 | 2 | ignored ignored
    #   predicted  0 0 0 1 | 1 1 2 | 0 | 0       2
    # so the confusion matrix, truth in rows, is
    #   class 0:  3 1 0     t0 = 4
    #   class 1:  0 2 1     t1 = 3
    #   class 2:  1 0 0     t2 = 1
    #   columns   4 3 1     8 pixels in all
    truth = [[0, 0, 0, 0, 1], [1, 1, 2, IGNORE, IGNORE]]
    predicted = [[0, 0, 0, 1, 1], [1, 2, 0, 0, 2]]
    metrics = counted(truth, predicted, 3).metrics()
    assert metrics.confusion.tolist() == [[3, 1, 0], [0, 2, 1], [1, 0, 0]]
    # pixel accuracy: sum n_ii / sum t_i = (3 + 2 + 0) / 8
    assert metrics.pixel_accuracy == pytest.approx(0.625)
    # mean accuracy: (1/3)(3/4 + 2/3 + 0/1) = (17/12)/3 = 17/36
    assert metrics.mean_accuracy == pytest.approx(17 / 36)
    # IU: n_ii / (t_i + sum_j n_ji - n_ii): 3/(4+4-3) = 3/5, 2/(3+3-2) = 1/2, 0/(1+1-0) = 0
    assert metrics.iu == pytest.approx([0.6, 0.5, 0.0])
    # mean IU: (0.6 + 0.5 + 0)/3 = 11/30
    assert metrics.mean_iu == pytest.approx(11 / 30)
    # frequency weighted IU: (4*0.6 + 3*0.5 + 1*0)/8 = 3.9/8
    assert metrics.frequency_weighted_iu == pytest.approx(0.4875)


def test_perfect_prediction_is_one_everywhere():
    labels = np.arange(12, dtype=np.uint8).reshape(3, 4) % 4
    metrics = counted(labels, labels, 4).metrics()
    assert metrics.iu.tolist() == [1.0] * 4
    assert metrics.pixel_accuracy == metrics.mean_accuracy == metrics.mean_iu == 1.0
    assert metrics.frequency_weighted_iu == 1.0


def test_a_class_predicted_but_never_true_has_iu_zero_and_counts():
    metrics = counted([0, 0, 1, 1], [0, 0, 1, 2], 3).metrics()
    assert metrics.iu.tolist() == [1.0, 0.5, 0.0]
    assert metrics.mean_iu == pytest.approx(0.5)  # of three classes
    assert metrics.mean_accuracy == pytest.approx(0.75)  # of two: class 2 has no accuracy


def test_a_class_absent_from_both_is_nan_left_out_and_null():
    metrics = counted([0, 0, 1, 1], [0, 1, 1, 1], 4).metrics()
    assert np.isnan(metrics.iu).tolist() == [False, False, True, True]
    assert metrics.mean_iu == pytest.approx((1 / 2 + 2 / 3) / 2)
    written = metrics.to_dict("val", 1, ["a", "b", "c", "d"])
    assert written["iu"]["c"] is None
    assert written["iu"]["d"] is None
    assert "NaN" not in json.dumps(written, allow_nan=False)


def test_an_all_ignored_image_counts_nothing():
    matrix = counted([0, 1, 1], [0, 1, 0], 2)
    before = matrix.metrics()
    matrix.update(np.full((5, 7), IGNORE, np.uint8), np.zeros((5, 7), np.uint8))
    after = matrix.metrics()
    assert after.confusion.tolist() == before.confusion.tolist()
    assert after.mean_iu == before.mean_iu


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("shape", [(4, 4), (0,)])
def test_nothing_counted_breaks_nothing(shape):
    metrics = counted(np.full(shape, IGNORE), np.zeros(shape), 2).metrics()
    written = metrics.to_dict("test", 1, ["a", "b"])
    for key in ("pixel_accuracy", "mean_accuracy", "mean_iu", "frequency_weighted_iu"):
        assert math.isnan(getattr(metrics, key))
        assert written[key] is None
    assert written["confusion"] == [[0, 0], [0, 0]]
    json.dumps(written, allow_nan=False)


def test_json_has_the_contract_s_keys_in_plain_numbers():
    written = counted([0, 1], [0, 0], 2).metrics().to_dict("test", 1, ["sky", "road"])
    assert list(written) == [
        "split",
        "images",
        "pixel_accuracy",
        "mean_accuracy",
        "mean_iu",
        "frequency_weighted_iu",
        "iu",
        "confusion",
    ]
    assert json.loads(json.dumps(written)) == written
    assert written["iu"] == {"sky": 0.5, "road": 0.0}
    assert written["confusion"] == [[1, 0], [1, 0]]


def test_shapes_that_differ_and_foreign_predictions_are_refused():
    with pytest.raises(ValueError, match="truth is"):
        ConfusionMatrix(2).update(np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8))
    matrix = ConfusionMatrix(2)
    with pytest.raises(ValueError, match=r"0\.\.1"):
        matrix.update(np.array([0, 1]), np.array([0, 2]))
    with pytest.raises(ValueError, match=r"0\.\.1"):
        matrix.update(np.array([0, 1]), np.array([0, -1]))
    assert matrix.counts.sum() == 0


def test_a_foreign_prediction_where_truth_is_ignored_is_no_matter():
    assert counted([0, IGNORE], [0, IGNORE], 2).counts.tolist() == [[1, 0], [0, 0]]


def test_counts_exceed_32_bits():
    # 2**33 pixels would wrap around in int32; float32 would lose the single wrong one.
    metrics = Metrics.of(np.array([[2**33, 1], [0, 2**33]], np.int64))
    assert metrics.pixel_accuracy == 2**34 / (2**34 + 1)
    assert metrics.pixel_accuracy < 1
    matrix = ConfusionMatrix(1)
    matrix.counts[0, 0] = 2**31 - 1
    matrix.update(np.array([0, 0]), np.array([0, 0]))
    assert matrix.counts.tolist() == [[2**31 + 1]]


def test_metrics_are_a_snapshot():
    matrix = counted([0, 1], [0, 1], 2)
    before = matrix.metrics()
    matrix.update(np.array([0]), np.array([1]))
    assert before.confusion.tolist() == [[1, 0], [0, 1]]


@st.composite
def pixels(draw):
    """Draw truth (some ignored) and prediction of a few pixels, over up to six classes."""
    classes = draw(st.integers(1, 6))
    ids = st.integers(0, classes - 1)
    pairs = draw(st.lists(st.tuples(st.one_of(ids, st.just(IGNORE)), ids), max_size=60))
    return classes, pairs


def slow_reference(classes, pairs):
    """Return the paper's formulas pixel by pixel in exact fractions, from sets of positions."""
    kept = [(i, t, p) for i, (t, p) in enumerate(pairs) if t != IGNORE]
    true = [{i for i, t, _ in kept if t == c} for c in range(classes)]
    said = [{i for i, _, p in kept if p == c} for c in range(classes)]
    iu = [
        Fraction(len(t & p), len(t | p)) if t | p else None for t, p in zip(true, said, strict=True)
    ]
    accuracy = [Fraction(len(t & p), len(t)) for t, p in zip(true, said, strict=True) if t]
    there = [value for value in iu if value is not None]
    if not kept:
        return iu, None, None, None, None
    pixel = Fraction(sum(t == p for _, t, p in kept), len(kept))
    weighted = sum(iu[t] for _, t, _ in kept) / len(kept)
    return iu, pixel, sum(accuracy) / len(accuracy), sum(there) / len(there), weighted


@given(pixels())
@settings(deadline=None)
def test_agrees_with_an_independent_reference(case):
    classes, pairs = case
    truth = np.array([t for t, _ in pairs], np.uint8)
    predicted = np.array([p for _, p in pairs], np.uint8)
    iu, pixel, mean_accuracy, mean_iu, weighted = slow_reference(classes, pairs)
    written = (
        counted(truth, predicted, classes).metrics().to_dict("x", 1, [*map(str, range(classes))])
    )
    for got, expected in [
        *zip(written["iu"].values(), iu, strict=True),
        (written["pixel_accuracy"], pixel),
        (written["mean_accuracy"], mean_accuracy),
        (written["mean_iu"], mean_iu),
        (written["frequency_weighted_iu"], weighted),
    ]:
        assert (got is None) == (expected is None)
        assert got is None or got == pytest.approx(float(expected), rel=1e-14)


@given(pixels(), st.lists(st.integers(0, 60), max_size=8), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_any_division_into_batches_gives_the_same_counts(case, cuts, random):
    classes, pairs = case
    array = np.array(pairs, np.uint8).reshape(-1, 2)
    whole = counted(array[:, 0], array[:, 1], classes)
    parts = np.split(array, sorted(min(cut, len(array)) for cut in cuts))
    random.shuffle(parts)
    bit_by_bit = ConfusionMatrix(classes)
    for part in parts:
        bit_by_bit.update(part[:, 0], part[:, 1])
    assert (bit_by_bit.counts == whole.counts).all()
    assert whole.counts.sum() == sum(t != IGNORE for t, _ in pairs)


def test_unscored_classes_keep_their_iu_but_leave_the_means():
    # The matrix of the hand-worked example: class 2, of IU 0 and accuracy 0, is not scored.
    matrix = ConfusionMatrix(3, unscored=[2])
    matrix.counts += np.array([[3, 1, 0], [0, 2, 1], [1, 0, 0]])
    metrics = matrix.metrics()
    assert metrics.iu == pytest.approx([0.6, 0.5, 0.0])
    assert metrics.mean_iu == pytest.approx((0.6 + 0.5) / 2)
    assert metrics.mean_accuracy == pytest.approx((3 / 4 + 2 / 3) / 2)
    assert metrics.pixel_accuracy == pytest.approx(0.625)  # over all pixels, as before
    assert metrics.frequency_weighted_iu == pytest.approx(0.4875)
    assert metrics.to_dict("test", 1, ["a", "b", "c"])["iu"]["c"] == 0.0


def test_metrics_json_names_the_classes_that_the_means_leave_out():
    confusion = np.eye(3, dtype=np.int64)
    written = Metrics.of(confusion, {2, 0}).to_dict("test", 1, ["cow", "sky", "moon"])
    assert written["unscored"] == ["cow", "moon"]
    assert "unscored" not in Metrics.of(confusion).to_dict("test", 1, ["cow", "sky", "moon"])


def test_a_class_absent_from_truth_does_not_spoil_the_mean_if_unscored():
    # SIFT Flow's cow: never in the test set; a single pixel taken for one costs mean IU a third.
    confusion = np.array([[9, 0, 1], [0, 10, 0], [0, 0, 0]])
    assert Metrics.of(confusion).mean_iu == pytest.approx((0.9 + 1.0 + 0.0) / 3)
    assert Metrics.of(confusion, unscored={2}).mean_iu == pytest.approx((0.9 + 1.0) / 2)


@pytest.mark.filterwarnings("error")
def test_with_every_class_unscored_there_are_no_means():
    metrics = Metrics.of(np.eye(2, dtype=np.int64), unscored=(0, 1))
    assert math.isnan(metrics.mean_iu)
    assert math.isnan(metrics.mean_accuracy)
    assert metrics.pixel_accuracy == 1.0
