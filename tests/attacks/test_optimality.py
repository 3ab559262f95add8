"""AttackBench's measure, by hand arithmetic."""

import numpy as np
import pytest

from robustjax.attacks.optimality import optimality

INF = np.inf


def test_areas_by_hand():
    """Best: 0, 1, 2, 4, so c = 3/4, e = 4, A* = 7/4 and the room is 3 - 7/4 = 5/4.

    The second attack has areas 0, 2, 2, 4 (cut at 4): A = 2, so 1 - (1/4) / (5/4) = 4/5.
    """
    found = optimality({"first": np.array([0, 1, 2, 4.0]), "second": np.array([0, 2, 2, INF])})
    assert found["first"] == pytest.approx(1.0)
    assert found["second"] == pytest.approx(0.8)


def test_an_attack_that_finds_nothing_gets_nothing():
    found = optimality({"all": np.array([1, 2, 3.0]), "none": np.full(3, INF)})
    assert found == pytest.approx({"all": 1.0, "none": 0.0})


def test_the_best_is_taken_for_each_example_and_over_other_attacks_too():
    """Best 1, 1, 2: A* = 4/3, e = 2, room 2/3. Each of both has area 5/3 and so 1 - (1/3) / (2/3) = 1/2."""
    pair = {"a": np.array([1, 2, 2.0]), "b": np.array([2, 1, 2.0])}
    assert optimality(pair) == pytest.approx({"a": 0.5, "b": 0.5})
    alone = optimality({"a": pair["a"]}, others={"b": pair["b"]})
    assert alone == pytest.approx({"a": 0.5})


def test_it_does_not_depend_on_units_or_order():
    rng = np.random.default_rng(0)
    one, two = rng.uniform(0.1, 1, size=(2, 20))
    order = rng.permutation(20)
    expected = optimality({"one": one, "two": two})
    assert optimality({"one": 255 * one[order], "two": 255 * two[order]}) == pytest.approx(expected)


def test_no_area_to_compare_is_nan():
    assert np.isnan(optimality({"a": np.array([0, 2.0, 2.0])})["a"])
    assert np.isnan(optimality({"a": np.array([INF, INF])})["a"])


@pytest.mark.parametrize(
    ("distances", "says"),
    [
        ({}, "no attack given"),
        ({"a": np.array([-1.0])}, "distances of a"),
        ({"a": np.array([np.nan])}, "distances of a"),
        ({"a": np.ones((2, 2))}, "distances of a"),
        ({"a": np.array([0.0, 1]), "b": np.array([1.0, 1])}, "are 0 for some attacks only"),
        ({"a": np.ones(2), "b": np.ones(3)}, "as many examples"),
    ],
)
def test_what_is_refused(distances, says):
    with pytest.raises(ValueError, match=f"optimality: .*{says}"):
        optimality(distances)
