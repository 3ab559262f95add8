"""The settings of a detector are those with the largest AUROC on validation images, which are in no test set."""

import dataclasses

import jax
import numpy as np
import pytest

from robustjax import data
from robustjax.catalog.scores import DETECTORS, TUNABLE, tunable
from robustjax.evaluation import scores
from robustjax.evaluation.detector_search import Validation, in_words, search
from robustjax.models import small
from robustjax.ood import metrics, post_processors
from robustjax.types import Network

RNG = np.random.default_rng(0)


def split(count, name, low=0, high=256):
    image = RNG.integers(low, high, (count, 4, 4, 1), dtype=np.int64).astype(np.uint8)
    return data.of_arrays(image, np.arange(count) % 3, name=name)


def network():
    model = small.mlp(classes=3, shape=(4, 4, 1), widths=(40,))
    return Network(model, *model.init(jax.random.key(0)))


ID, OOD = split(40, "validation"), split(30, "ood", 100, 160)
VALIDATION = Validation(split(60, "train"), ID, split(40, "noise"), OOD)
TESTS = {"test": split(20, "test"), "far": split(20, "far")}


def by_hand(net, one):
    """The AUROC of a detector with its settings, by the evaluation of whole sets."""
    fitted = scores.fit(net, one, VALIDATION.train, ID, VALIDATION.noise)
    scorer = scores.Scorer(net, one, classes=3, fitted=fitted)
    return metrics.auroc(scorer.clean(ID)["conf"], scorer.clean(OOD)["conf"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vra", "odin"])
def test_the_best_of_the_grid_is_kept(name):
    net, one = network(), TUNABLE[name]
    grid = {key: values[:2] for key, values in one.grid.items()}
    found = search(net, one.make, grid, VALIDATION, TESTS)
    assert len(found.tried) == np.prod([len(values) for values in grid.values()])
    assert found.best.auroc == max(t.auroc for t in found.tried)
    first = next(iter(grid))
    assert [t.settings[first] for t in found.tried[:2]] == list(grid[first])
    for tried in (found.tried[0], found.tried[-1]):
        assert tried.auroc == pytest.approx(by_hand(net, one.make(**tried.settings)), abs=1e-3)
    assert f"validation AUROC {found.best.auroc:.4f}" in in_words(name, found)


@pytest.mark.slow
def test_the_least_fpr_is_kept_where_it_is_asked_for():
    found = search(
        network(), post_processors.energy, {"temperature": (1.0, 0.02, 30.0)}, VALIDATION, TESTS, by="fpr"
    )
    assert found.best.fpr == min(t.fpr for t in found.tried)
    for tried in found.tried:
        scorer = scores.Scorer(network(), post_processors.energy(**tried.settings), classes=3)
        a, b = (scorer.clean(one)["conf"] for one in (ID, OOD))
        assert tried.fpr == pytest.approx((b >= np.sort(a)[2]).mean(), abs=1e-6)  # 38 of 40 are 95 %


def test_of_equals_the_first_is_kept():
    found = search(network(), post_processors.fdbd, {"centred": (True, True)}, VALIDATION, TESTS)
    assert found.best is found.tried[0]


def test_settings_outside_their_range_and_empty_grids_are_refused():
    with pytest.raises(ValueError, match="percentile is 99"):
        search(network(), post_processors.scale, {"percentile": (99.0,)}, VALIDATION, TESTS)
    with pytest.raises(ValueError, match="the grid is"):
        search(network(), post_processors.scale, {"percentile": ()}, VALIDATION, TESTS)


@pytest.mark.parametrize("side", ["held_out", "ood"])
def test_validation_images_may_not_be_tested_on(side):
    theirs = getattr(VALIDATION, side)
    image = TESTS["far"].image.copy()
    image[7] = theirs.image[3]
    tests = TESTS | {"far": dataclasses.replace(TESTS["far"], image=image)}
    with pytest.raises(ValueError, match=r"share 1 images, number 3 of .* is number 7 of far"):
        search(network(), post_processors.energy, {"temperature": (1.0,)}, VALIDATION, tests)


def test_every_grid_holds_settings_of_its_detector():
    for name, one in TUNABLE.items():
        for settings in ({key: values[i] for key, values in one.grid.items()} for i in (0, -1)):
            assert one.make(**settings).reads == DETECTORS[name].reads
    aloe = tunable("odin", "aloe")
    assert aloe is not None and tunable("energy", "aloe") is None
    np.testing.assert_allclose(aloe.grid["magnitude"], np.arange(0, 0.0041, 0.0002), atol=1e-12)
    assert aloe.grid["temperature"] == (1000.0,)
    assert tunable("ebo") is TUNABLE["energy"] and tunable("msp") is None
    assert len(TUNABLE["adascale_a"].grid["percentiles"]) == 36


def test_one_program_serves_all_percentiles_of_adascale():
    assert post_processors.adascale_a(percentiles=(60, 70)).build == DETECTORS["adascale_a"].build
