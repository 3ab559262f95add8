"""Reports merge by example: other images side by side, other attacks on top, never to a higher number."""

import dataclasses

import numpy as np
import pytest

from robustjax.evaluation.results import BROKEN, NOT_RUN, ROBUST, Results, merge


def report(attacks, index, outcome, *, seed=0):
    """A consistent report: image i shows class i % 3, images with index % 7 == 6 are wrong from the start."""
    index, draw = np.asarray(index), np.random.default_rng(seed)
    label, n = index % 3, len(index)
    wrong = index % 7 == 6
    outcome = np.array(outcome, np.int8).reshape(len(attacks), n)
    outcome[:, wrong] = NOT_RUN
    value = np.where((outcome == BROKEN).any(axis=0) | wrong, 1.0, -1.0) * draw.uniform(0.1, 1, n)
    return Results(
        attacks=tuple(attacks),
        index=index,
        label=label,
        clean=np.where(wrong, (label + 1) % 3, label),
        already=np.zeros(n, bool),
        outcome=outcome,
        margin=np.where(outcome == NOT_RUN, np.nan, value),
        x=draw.uniform(size=(n, 2)) + 10 * seed,
        prediction=np.where(value > 0, (label + 1) % 3, label),
        value=value,
        distance=draw.uniform(size=n),
        steps=np.full(len(attacks), 5),
        seconds=np.full(len(attacks), 1.0),
    )


FIRST = report(["a", "b"], range(8), [[1, 0, 0, 0, 1, 0, 0, 0], [-1, 1, 0, 0, -1, 0, 0, 0]])
SECOND = report(["c"], range(8), [[0, 1, 1, 0, 0, 0, 0, 1]], seed=1)


def test_an_image_is_robust_where_no_report_broke_it():
    both = merge([FIRST, SECOND])
    np.testing.assert_array_equal(both.robust, [False, False, False, True, False, True, False, False])
    np.testing.assert_array_equal(both.broken_by, [0, 1, 2, -1, 0, -1, -1, 2])
    assert [name for name, _ in both.accuracy()] == ["clean", "a", "b", "c"]
    np.testing.assert_allclose([e.value for _, e in both.accuracy()], [7 / 8, 5 / 8, 4 / 8, 2 / 8])
    np.testing.assert_array_equal(both.x[[0, 2]], [FIRST.x[0], SECOND.x[2]])
    assert ((both.value > 0) == ~both.robust).all()


def test_the_order_of_rows_does_not_matter():
    order = np.random.default_rng(0).permutation(8)
    names = [f.name for f in dataclasses.fields(Results) if f.name not in ("attacks", "steps", "seconds")]
    rows = {name: np.take(getattr(SECOND, name), order, int(name in ("outcome", "margin"))) for name in names}
    one, other = merge([FIRST, SECOND]), merge([FIRST, dataclasses.replace(SECOND, **rows)])
    for name in names:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


def test_other_images_come_side_by_side():
    later = report(["a", "b"], range(8, 12), [[0, 1, 0, 0], [0, -1, 0, 1]], seed=2)
    both = merge([later, FIRST])
    np.testing.assert_array_equal(both.index, np.arange(12))
    np.testing.assert_array_equal(both.robust, [*FIRST.robust, *later.robust])
    np.testing.assert_array_equal(both.steps, [10, 10])


def test_an_earlier_report_that_was_gone_on_from_stays_in_force():
    going_on = dataclasses.replace(SECOND, already=np.arange(8) == 3)
    assert not going_on.robust[3]
    assert not merge([FIRST, going_on]).robust[3]
    np.testing.assert_allclose([e.value for _, e in going_on.accuracy()], [7 / 8, 3 / 8])


@pytest.mark.parametrize(
    ("reports", "words"),
    [
        ([], "no report"),
        ([FIRST, FIRST], "both reports ran a, b"),
        ([FIRST, report(["a", "b"], range(5, 9), [[0] * 4] * 2)], "3 images are in both"),
        ([FIRST, report(["c"], range(8, 12), [[ROBUST] * 4])], "the attacks are"),
        ([FIRST, dataclasses.replace(SECOND, clean=np.zeros(8))], "differ in clean"),
    ],
    ids=["none", "twice", "overlap", "attacks", "model"],
)
def test_reports_that_do_not_belong_together_are_refused(reports, words):
    with pytest.raises(ValueError, match=words):
        merge(reports)
