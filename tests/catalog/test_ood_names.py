"""Training methods, detectors and attacks on scores by name, or as module:name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustjax.attacks.case import rows_of
from robustjax.attacks.pgd import pgd
from robustjax.catalog import ood_losses
from robustjax.catalog.score_attacks import SCORE_ATTACKS, score_attack
from robustjax.catalog.scores import DETECTORS, detector
from robustjax.losses import gaussian_mixture
from robustjax.losses.ccu import mixed
from robustjax.models import small
from robustjax.numerics import keys_for
from robustjax.ood.detectors import FitInputs, LastLayer, ScoreInputs, built
from robustjax.threats import Threat
from robustjax.types import Batch, Pair, frozen

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
IMAGES = jnp.asarray(RNG.uniform(size=(12, 4, 4, 1)), jnp.float32)


@pytest.mark.parametrize("name", ood_losses.METHODS)
def test_every_method_can_be_named(name):
    model = small.mlp(classes=ood_losses.outputs(name, 3), shape=(4, 4, 1), widths=(5,))
    axes = None
    if name == "ccu":
        axes = gaussian_mixture.principal(IMAGES)
        inside, outside = (
            gaussian_mixture.fitted(KEY, axes, x, components=2) for x in (IMAGES[:6], IMAGES[6:])
        )
        model = mixed(model, axes, inside, outside)
    ascent = pgd(Threat("linf", 0.1), steps=1, step_size=0.1)
    loss = ood_losses.loss(name, ood_losses.LossInputs(model, 3, ascent, ascent, axes=axes))
    pair = Pair(Batch(IMAGES[:6], jnp.arange(6) % 3), IMAGES[6:])
    value, (_, metrics) = jax.eval_shape(lambda *given: loss(*given), *model.init(KEY), pair, KEY)
    assert value.shape == () and {"risk"} <= metrics.keys()
    logits = model.apply(*model.init(KEY), IMAGES)[0]
    assert logits.shape == (12, ood_losses.outputs(name, 3))
    score = ood_losses.form(name, classes=3)(logits)
    assert score.shape == (12,) and jnp.isfinite(score).all()


def test_names_are_checked():
    with pytest.raises(ValueError, match="--loss is 'nonesuch', must be one of standard"):
        ood_losses.outputs("nonesuch", 3)
    with pytest.raises(ValueError, match="--detectors is 'nonesuch', must be one of msp"):
        detector("nonesuch")
    with pytest.raises(ValueError, match="--attacks is 'nonesuch', must be one of adaptive"):
        score_attack("nonesuch")
    assert ood_losses.outputs("sofl", 100) == 110 and ood_losses.outputs("aloe", 10) == 10


def inputs(name, reject=0):
    """A small network with the activations, and what the detector is fitted to."""
    model = small.mlp(classes=3 + reject, shape=(4, 4, 1), widths=(5, 6))
    params, state = model.init(KEY)
    features = {n: np.asarray(a) for n, a in model.features(params, state, IMAGES).items()}
    head = LastLayer(params["head"]["kernel"], params["head"]["bias"])
    fit = DETECTORS[name].fit
    noise = {n: a + RNG.normal(size=a.shape) for n, a in features.items()}
    fitted = fit(FitInputs(features, np.arange(12) % 3, features, noise, head)) if fit else ()
    return ScoreInputs(
        frozen(model, params, state),
        3,
        lambda x: model.features(params, state, x),
        head,
        ood_losses.form("atom" if reject else "oe", classes=3),
        fitted,
    )


def best(cases, one):
    """The largest merit of one run of each case, for ID or for OOD images: one program."""
    keys = keys_for(KEY, 12)

    @jax.jit
    def merits(x, data):
        run = jnp.int32(0)
        return [case.run_whole(one, rows_of(case, keys, data, {}, run, x), x).value for case in cases]

    return lambda is_id: np.max(merits(IMAGES, jnp.full(12, is_id)), axis=0)


@pytest.mark.parametrize("reject", [0, 1])
@pytest.mark.parametrize("name", SCORE_ATTACKS)
def test_every_attack_moves_the_score_its_way(name, reject):
    one = built(DETECTORS["own"], inputs("own", reject))
    cases = score_attack(name).cases(
        Threat("linf", 8 / 255), classes=3 + reject, surrogate=False, steps=3, restarts=1
    )
    clean, merit = np.asarray(one.score(IMAGES)), best(cases, one)
    assert any(case.black_box for case in cases) == (name in ("adaptive", "strong"))
    for is_id, sign in ((True, -1.0), (False, 1.0)):
        worst = sign * merit(is_id)
        assert (worst.mean() - clean.mean()) * sign > 0 or (name == "atom" and is_id)
        if name == "atom" and is_id:  # attacks OOD images only
            np.testing.assert_allclose(worst, clean, rtol=1e-5)


MINE = """
from robustjax.attacks import pgd
from robustjax.losses import acet
from robustjax.ood import ScoreAttack, detectors, gaussian_scores, lowered, raised

def my_loss(model, ood_ascent):
    return acet(model, ood_ascent, weight=2.0)

def my_score(logits_fn):
    return lambda x: logits_fn(x).max(axis=-1)

FITTED = detectors.of_features(lambda given: gaussian_scores.mahalanobis(detectors.last(given.features), given.label))

def my_attack(threat, detector, *, steps, restarts):
    ascent = pgd(threat, steps=steps, step_size=threat.eps / 4)
    return ScoreAttack(on_id=lowered(ascent, detector.score), on_ood=raised(ascent, detector.score))
"""


@pytest.mark.slow
def test_a_loss_an_attack_and_scores_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "mine_for_ood.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    given = inputs("max_logit")
    np.testing.assert_array_equal(
        detector("mine_for_ood:my_score")(given)(IMAGES), DETECTORS["max_logit"](given)(IMAGES)
    )
    assert detector("mine_for_ood:FITTED").fit is not None
    attack = score_attack("mine_for_ood:my_attack")
    one = built(detector("mine_for_ood:my_score"), given)
    cases = attack.cases(Threat("linf", 0.1), classes=3, surrogate=False, steps=3, restarts=1)
    assert not attack.published and (best(cases, one)(False) > np.asarray(one.score(IMAGES))).any()
    ascent = pgd(Threat("linf", 0.1), steps=1, step_size=0.1)
    model = small.mlp(classes=3, shape=(4, 4, 1), widths=(5,))
    pair = Pair(Batch(IMAGES[:6], jnp.arange(6) % 3), IMAGES[6:])
    values = [
        ood_losses.loss(name, ood_losses.LossInputs(model, 3, ascent, ascent, weight=weight))(
            *model.init(KEY), pair, KEY
        )[0]
        for name, weight in (("mine_for_ood:my_loss", None), ("acet", 2.0))
    ]
    assert values[0] == values[1] and ood_losses.outputs("mine_for_ood:my_loss", 3) == 3
