"""Results survive the way through files, and the page of numbers agrees with them."""

import dataclasses
import io
import json

import numpy as np
import pytest

from robustjax.evaluation.results import Results
from robustjax.evaluation.runner import Progress
from robustjax.evaluation.score_suite import ScoreResults
from robustjax.runtime import result_files
from robustjax.runtime.attack_progress import attack_progress

FOUND = Results(
    attacks=("a", "b"),
    index=np.array([7, 8, 9]),
    label=np.array([0, 1, 2], np.int32),
    clean=np.array([0, 1, 1]),
    already=np.zeros(3, bool),
    outcome=np.array([[1, 0, -1], [-1, 0, -1]], np.int8),
    margin=np.array([[0.5, -1.0, np.nan], [np.nan, -0.5, np.nan]], np.float32),
    x=np.zeros((3, 2, 2, 1), np.float32),
    prediction=np.array([2, 1, 1]),
    value=np.array([0.5, -0.5, 0.1], np.float32),
    distance=np.array([0.1, 0.1, 0.0]),
    steps=np.array([20, 10]),
    seconds=np.array([1.5, 0.5]),
)


def test_results_come_back_with_what_was_said(tmp_path):
    result_files.write(tmp_path / "new", FOUND, {"network": {"model": "m"}, "eps": 0.3})
    for place in (tmp_path / "new", tmp_path / "new" / "results.npz"):
        found, about = result_files.read(place)
        assert about == {"network": {"model": "m"}, "eps": 0.3}
        for field in dataclasses.fields(Results):
            np.testing.assert_array_equal(getattr(found, field.name), getattr(FOUND, field.name))


def test_the_page_of_numbers(tmp_path):
    result_files.write(tmp_path, FOUND, {"eps": 0.3})
    page = json.loads((tmp_path / "results.json").read_text())
    assert [round(row["accuracy %"], 1) for row in page["accuracy"]] == [66.7, 33.3, 33.3]
    assert [row.get("images") for row in page["accuracy"]] == [None, 2, 1]
    assert [e["broken_by"] for e in page["examples"]] == ["a", None, None]
    assert [e["robust"] for e in page["examples"]] == [False, True, False]
    assert page["examples"][1]["outcome"] == {"a": 0, "b": 0} and page["eps"] == 0.3


SCORED = ScoreResults(
    attacks=("a", "b"),
    index=np.array([3, 4, 5]),
    is_id=np.array([True, False, True]),
    clean=np.array([2.0, 0.0, 1.0], np.float32),
    scores=np.array([[1.0, 0.5, 1.5], [1.5, 1.2, 0.5]], np.float32),
    x=np.zeros((3, 2, 2, 1), np.float32),
    worst=np.array([1.0, 1.2, 0.5], np.float32),
    prediction=np.array([0, 1, 0]),
    confidence=np.array([0.9, 0.8, 0.6], np.float32),
    distance=np.array([0.1, 0.1, 0.1]),
    steps=np.array([20, 10]),
    seconds=np.array([1.5, 0.5]),
)


def test_scores_come_back_and_their_metrics_are_in_the_page(tmp_path):
    result_files.write_scores(tmp_path, SCORED, {"eps": 0.3})
    found, about = result_files.read_arrays(tmp_path, ScoreResults)
    assert about == {"eps": 0.3} and found.attacks == SCORED.attacks
    np.testing.assert_array_equal(found.scores, SCORED.scores)
    page = json.loads((tmp_path / "results.json").read_text())
    assert page["metrics"]["clean"]["auroc"] == 1.0 and page["metrics"]["both attacked"]["auroc"] == 0.0
    assert page["examples"][1]["scores"] == pytest.approx({"a": 0.5, "b": 1.2})
    with pytest.raises(ValueError, match="holds no results"):
        result_files.read(tmp_path)


def test_files_of_earlier_versions_are_read(tmp_path):
    result_files.write(tmp_path, FOUND, {"subject": {"model": "m"}})
    (tmp_path / "results.npz").rename(tmp_path / "verdicts.npz")
    found, about = result_files.read(tmp_path)
    assert about == {"network": {"model": "m"}} and found.attacks == FOUND.attacks


def test_other_files_are_refused(tmp_path):
    np.savez(tmp_path / "results.npz", x=np.zeros(1))
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ValueError, match="holds no results"):
            result_files.read(place)


def test_the_line_says_how_many_are_robust_and_how_long_it_takes():
    out, now = io.StringIO(), [0.0]
    watch = attack_progress(file=out, clock=lambda: now[0])
    for second in range(0, 60, 5):
        now[0] = float(second)
        work = 10.0 * second
        watch(Progress("apgd-ce", 1, 4, 90 - second, 100, second / 60, work, 1000.0 - work))
    lines = out.getvalue().splitlines()
    assert len(lines) == 6  # every ten seconds
    assert "1/4 apgd-ce" in lines[-1] and "40 of 100 robust" in lines[-1]
    assert "00:50 gone, at most 00:50 left" in lines[-1]  # (1000 - 500) / 10 per second


def test_a_segment_that_waits_for_compiling_does_not_slow_the_rest_down():
    """100 passes in every segment of a second; the first takes 20 more, and one where the batch shrinks 30."""
    out, now = io.StringIO(), [0.0]
    watch = attack_progress(file=out, clock=lambda: now[0])
    for segment, took in enumerate((0, 21, 1, 1, 1, 31, 1, 1)):
        now[0] += took
        watch(Progress("fab-t", 3, 4, 9, 9, segment / 20, 100.0 * segment, 2000.0 - 100.0 * segment))
    lines = out.getvalue().splitlines()
    assert "left" not in lines[0] + lines[1] and len(lines) == 3
    assert "at most 00:15 left" in lines[2]  # (2000 - 500) / 100 per second


def test_the_speed_of_one_attack_is_not_taken_for_that_of_the_next():
    """Square makes 100 passes a second where APGD made 10, and its first segment waits for compiling."""
    out, now = io.StringIO(), [0.0]
    watch = attack_progress(counts="under attack", file=out, clock=lambda: now[0])
    for second in (0, 10, 20):
        now[0] = float(second)
        watch(Progress("apgd", 1, 2, 9, 9, second / 20, 10.0 * second, 3200.0 - 10.0 * second))
    for second in (20, 40, 50):
        now[0] = float(second)
        work = 200.0 + 100.0 * max(second - 40, 0)
        watch(Progress("square", 2, 2, 9, 9, second / 70, work, 3200.0 - work))
    first, second = out.getvalue().splitlines()[-2:]
    assert "left" not in first and "9 of 9 under attack" in first
    assert "at most 00:20 left" in second  # (3200 - 1200) / 100 per second
