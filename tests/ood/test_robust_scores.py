"""Attacks on scores: closed forms on linear and quadratic ones, what is kept, radii, levels and saturation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from robustjax.attacks import objectives
from robustjax.attacks.apgd import apgd
from robustjax.attacks.case import rows_of
from robustjax.attacks.pgd import fgsm, pgd, pgd_solver
from robustjax.attacks.starts import at_origin
from robustjax.catalog.score_attacks import score_attack
from robustjax.models import small
from robustjax.numerics import keys_for
from robustjax.ood import gaussian_scores, logit_scores, presets, protocols, score_attacks, surrogates
from robustjax.ood.detectors import ScoredNetwork
from robustjax.ood.odin import odin
from robustjax.ood.scores import scored
from robustjax.ood.uint8_grid import uint8_pgd
from robustjax.threats import Threat
from robustjax.types import frozen

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
W = jnp.asarray(RNG.normal(size=12), jnp.float32)
X = jnp.asarray(RNG.uniform(size=(6, 12)), jnp.float32)
MODEL = small.mlp(classes=4, widths=(16,), shape=(3, 4, 1))
LOGITS_FN = frozen(MODEL, *MODEL.init(jax.random.key(1)))
IMAGES = jnp.asarray(RNG.uniform(size=(6, 3, 4, 1)), jnp.float32)
OPEN = {"lower": -jnp.inf, "upper": jnp.inf}


def linear(x):
    return x @ W


def margin(x):
    return logit_scores.msp_margin(LOGITS_FN(x))


def room(eps):
    """How far a step along the signs of W, up and down, can go in ball and box."""
    free = np.where(W > 0, 1 - X, X), np.where(W > 0, X, 1 - X)
    return [(np.abs(W) * np.minimum(eps, f)).sum(axis=1) for f in free]


@pytest.mark.parametrize("ascent", ["fgsm", "pgd", "apgd", "uint8"])
def test_linear_scores_move_by_the_room_there_is(ascent):
    """s = w x: one step of eps changes it by sum_j |w_j| room_j, with room cut by the box."""
    eps = 0.1
    threat = Threat("linf", eps)
    step = {
        "fgsm": fgsm(threat),
        "pgd": pgd(threat, steps=12, step_size=0.03),
        "apgd": apgd(threat, steps=12),
        "uint8": uint8_pgd(threat, steps=12, levels=1000, step=10),
    }[ascent]
    x = jnp.round(X * 1000) / 1000 if ascent == "uint8" else X
    for push, sign, gain in (
        (score_attacks.raised, 1, room(eps)[0]),
        (score_attacks.lowered, -1, room(eps)[1]),
    ):
        found = jax.jit(push(step, linear))(KEY, x)
        np.testing.assert_allclose(
            found.value - linear(x), sign * gain, atol=5e-3 if ascent == "uint8" else 1e-5
        )
        np.testing.assert_allclose(found.value, linear(found.x), atol=1e-5)
        assert threat.contains(found.x, x).all()


@pytest.mark.parametrize("name", ["aloe", "atom"])
def test_published_attacks_climb_a_score_of_activations_itself(name):
    """A linear score moves by all the room there is; the logits, which know nothing of it, are not asked."""

    def blind(x):
        raise AssertionError("the logits are asked")

    eps, grid = 3 / 255, jnp.round(X * 255) / 255
    detector = ScoredNetwork(linear, blind, classes=4, of_activations=True)
    (case,) = score_attack(name).cases(Threat("linf", eps), classes=4, surrogate=False, steps=1, restarts=1)
    clean = linear(grid)
    for is_id in (True, False):
        rows = rows_of(case, keys_for(KEY, 6), jnp.full(6, is_id), {}, jnp.int32(0), grid)
        moved = case.run_whole(detector, rows, grid).value * (-1 if is_id else 1) - clean
        pushed = np.where((W > 0) ^ is_id, 1 - grid, grid)
        expected = (np.abs(W) * np.minimum(eps, pushed)).sum(axis=1) * (-1 if is_id else 1)
        np.testing.assert_allclose(moved, 0 if name == "atom" and is_id else expected, atol=1e-5)


@pytest.mark.slow
def test_distances_fall_by_the_radius():
    """M = -|x - mu|^2 / 2: pushed up in an l2 ball the distance falls by eps, to no less than 0."""
    form = gaussian_scores.Gaussians(jnp.zeros(12), jnp.eye(12), jnp.full((1, 12), 0.5))
    distance = np.linalg.norm(X - 0.5, axis=1)
    threat = Threat("l2", 0.8, **OPEN)
    found = jax.jit(score_attacks.raised(apgd(threat, steps=30), form))(KEY, X)
    np.testing.assert_allclose(found.value, -0.5 * np.maximum(distance - 0.8, 0) ** 2, atol=1e-3)
    found = jax.jit(score_attacks.lowered(apgd(threat, steps=30), form))(KEY, X)
    np.testing.assert_allclose(found.value, -0.5 * (distance + 0.8) ** 2, rtol=1e-3)


@pytest.mark.slow
def test_normal_scores_lose_what_the_theory_says():
    """s = x, data N(1, 1), outliers N(-1, 1), radius 0.5: AUROC 0.92135, one side 0.85558, both 0.76025."""
    rng = np.random.default_rng(1)
    inside, outside = (jnp.asarray(rng.normal(m, 1, (20_000, 1)), jnp.float32) for m in (1, -1))
    ascent = pgd(Threat("linf", 0.5, **OPEN), steps=2, step_size=0.5)
    score = lambda x: x[:, 0]
    low, high = (
        score_attacks.lowered(ascent, score)(KEY, inside).value,
        score_attacks.raised(ascent, score)(KEY, outside).value,
    )
    got = protocols.under_attack(score(inside), score(outside), low, high)
    want = {"auroc_clean": 0.92135, "auroc_in": 0.85558, "auroc_out": 0.85558, "auroc_both": 0.76025}
    want |= {"fpr_clean": 0.36124, "fpr_recalibrated": 0.74049}
    want |= {"fnr_clean_threshold": 0.12613, "fpr_clean_threshold": 0.55759}
    assert {name: got[name] for name in want} == pytest.approx(want, abs=0.015)


def test_an_attack_never_helps_the_detector():
    """An ascent that goes the wrong way leaves the clean score, unless a reproduction asks for what it found."""
    wrong = fgsm(Threat("linf", 0.1))
    backwards = lambda x: -linear(x)
    clean = linear(X)
    np.testing.assert_allclose(
        score_attacks.raised(wrong, linear, surrogates=[backwards])(KEY, X).value, clean
    )
    np.testing.assert_allclose(score_attacks.lowered(wrong, linear, surrogates=[linear])(KEY, X).value, clean)
    assert (
        score_attacks.raised(wrong, linear, surrogates=[backwards], clean=False)(KEY, X).value < clean
    ).all()


@pytest.mark.slow
def test_the_score_decides_among_objectives_starts_and_searches():
    threat = Threat("linf", 0.1)
    early = jnp.arange(12) < 6
    first, rest = jnp.where(early, W, 0.0), jnp.where(early, 0.0, W)
    halves = [lambda x: x @ first, lambda x: x @ rest]
    # Half of the examples have no room along the first half of the features, the others none along the rest.
    blocked = early[None] == (jnp.arange(6) < 3)[:, None]
    x = jnp.where(blocked, jnp.where(W > 0, 1.0, 0.0)[None], X)
    each = [score_attacks.raised(fgsm(threat), linear, surrogates=[half])(KEY, x).value for half in halves]
    best = np.maximum(*each)
    assert (np.asarray(each) < best - 0.1).any(axis=1).all()  # each is needed for some example
    np.testing.assert_allclose(
        score_attacks.raised(fgsm(threat), linear, surrogates=halves)(KEY, x).value, best
    )
    searches = [score_attacks.raised(fgsm(threat), linear, surrogates=[half]) for half in halves]
    np.testing.assert_allclose(score_attacks.highest(*searches)(KEY, x).value, best)
    fallen = [lambda x: -x @ first, lambda x: -x @ rest]
    searches = [score_attacks.lowered(fgsm(threat), linear, surrogates=[half]) for half in fallen]
    low = np.minimum(*(search(KEY, x).value for search in searches))
    np.testing.assert_allclose(score_attacks.lowest(*searches)(KEY, x).value, low)
    # Random points alone: more starts of the same keys are never worse.
    draws = [
        score_attacks.raised(pgd(threat, steps=0, step_size=0.0), linear, restarts=n)(KEY, x).value
        for n in (1, 4)
    ]
    assert (draws[1] >= draws[0]).all() and (draws[1] > draws[0]).any()


def test_a_solver_keeps_the_highest_score_on_its_way():
    """Climbing x past the peak of the score at 0.35: a solver remembers it, a plain ascent ends at 0.5."""
    threat = Threat("linf", 0.5, **OPEN)
    score, along = lambda x: -jnp.square(x[:, 0] - 0.35), lambda x: x[:, 0]
    x = jnp.zeros((2, 1))
    kept = score_attacks.raised(
        pgd_solver(threat, steps=10, step_size=0.05, start=at_origin), score, surrogates=[along]
    )(KEY, x)
    np.testing.assert_allclose(kept.x, 0.35, atol=1e-6)
    ended = score_attacks.raised(
        pgd(threat, steps=10, step_size=0.05, start=at_origin), score, surrogates=[along], clean=False
    )
    np.testing.assert_allclose(ended(KEY, x).x, 0.5, atol=1e-6)


def test_every_class_is_tried():
    """Class 0 leads at x but hardly grows; class 1 grows twenty times as fast and wins, if one aims at it."""
    kernel = jnp.asarray([[0.1, 2.0, -1.0]])
    logits_fn = lambda x: x @ kernel + jnp.asarray([[0.5, 0.0, 0.0]])
    score = scored(logits_fn, logit_scores.max_logit)
    x, threat = jnp.zeros((2, 1)), Threat("linf", 1.0, **OPEN)
    ascent = pgd_solver(threat, steps=10, step_size=0.25, start=at_origin)
    stuck = score_attacks.raised(pgd_solver(threat, steps=3, step_size=0.01, start=at_origin), score)(KEY, x)
    np.testing.assert_allclose(stuck.value, 0.503, atol=1e-5)
    found = score_attacks.over_classes(ascent, score, logits_fn, restarts=2)(KEY, x)
    np.testing.assert_allclose(found.value, 2.0, atol=1e-6)


@pytest.mark.slow
def test_radii_are_monotone_and_feasible_whatever_the_search():
    radii = (0.0, 0.05, 0.1, 0.3)

    def luck(eps, warm):
        del warm
        return score_attacks.raised(pgd(Threat("linf", eps), steps=0, step_size=0.0), margin)

    found = jax.jit(score_attacks.over_radii(luck, radii, direction="raise"))(KEY, IMAGES)
    assert found.x.shape == (4, *IMAGES.shape) and (np.diff(found.value, axis=0) >= 0).all()
    np.testing.assert_allclose(found.value[0], margin(IMAGES), atol=1e-6)
    for eps, x in zip(radii, found.x):
        assert Threat("linf", eps).contains(x, IMAGES).all()


def test_radii_start_where_the_last_one_ended():
    """One step of 0.05 per radius adds up only if it starts from what was found before."""

    def one_step(eps, warm):
        return score_attacks.lowered(
            pgd(Threat("linf", eps, **OPEN), steps=1, step_size=0.05, start=warm), linear
        )

    found = score_attacks.over_radii(one_step, (0.05, 0.1, 0.15), direction="lower")(KEY, X)
    fall = np.abs(W).sum() * np.array([0.05, 0.1, 0.15])
    np.testing.assert_allclose(
        found.value - linear(X)[None], -np.broadcast_to(fall[:, None], (3, 6)), rtol=1e-4
    )


def test_levels_are_reached_where_truncation_stalls():
    """Constant slope, radius 8, step 1: every pixel up to 247 ends 8 levels up; the truncated update stalls at 3."""
    pixels = np.arange(248, dtype=np.float32)[None] / np.float32(255)
    found = uint8_pgd(Threat("linf", 8 / 255), steps=10)(KEY, lambda x: x.sum(axis=1), jnp.asarray(pixels))
    np.testing.assert_allclose(found.x * 255, np.arange(248)[None] + 8, atol=1e-3)

    unit, bound = np.float32(255), np.float32(8 / 255)
    for sign, origin, share in ((1, pixels, 228 / 248), (-1, pixels + bound, 1.0)):
        moved = np.zeros_like(pixels)
        for _ in range(10):
            moved = np.clip(np.trunc(moved * unit + sign) / unit, -bound, bound)
            moved = np.clip(origin + moved, 0, 1) - origin
        assert (np.round(moved * unit) == 3 * sign).mean() == share  # why this file counts in whole numbers


@pytest.mark.slow
def test_levels_stay_levels():
    """From 8-bit images to 8-bit images, in ball and box, with a start that moves even at radius 1."""
    x = jnp.asarray(RNG.integers(0, 256, (8, 30)) / 255, jnp.float32)
    for eps, steps in ((1, 0), (3, 4), (2.6, 4)):
        threat = Threat("linf", eps / 255)
        found = uint8_pgd(threat, steps=steps, start="uniform")(KEY, lambda z: (z * W[0]).sum(axis=1), x)
        moved = np.asarray(found.x - x) * 255
        np.testing.assert_allclose(moved, np.round(moved), atol=1e-3)
        assert threat.contains(found.x, x).all() and np.abs(moved).max() > int(eps) - 0.01
    alone = uint8_pgd(Threat("linf", 0.0), steps=3, start="uniform")(KEY, lambda z: z.sum(axis=1), x)
    np.testing.assert_array_equal(alone.x, x)


@pytest.mark.slow
def test_saturation_blinds_an_attack_on_probabilities_only():
    """Logits of +-100 z: float32 says 1 at x and has no slope, while the margin is pushed across."""
    logits_fn = lambda x: 100 * jnp.stack([x[:, 0], -x[:, 0]], axis=1)
    x = jnp.full((3, 1), 0.6)
    ascent = pgd(Threat("linf", 0.7, **OPEN), steps=10, step_size=0.1, start=at_origin)
    blind = score_attacks.lowered(ascent, scored(logits_fn, logit_scores.msp))(KEY, x)
    np.testing.assert_array_equal(blind.value, 1.0)
    seeing = score_attacks.lowered(ascent, scored(logits_fn, logit_scores.msp_margin))(KEY, x)
    np.testing.assert_allclose(seeing.value, 0.0, atol=1e-4)  # max p = 1/2


@pytest.mark.slow
def test_results_do_not_depend_on_the_batch():
    search = jax.jit(score_attacks.raised(apgd(Threat("linf", 0.1), steps=5), margin, restarts=2))
    keys = keys_for(KEY, 6)
    whole = search(KEY, IMAGES)
    order = jnp.asarray([4, 0, 5, 2, 1, 3])
    np.testing.assert_allclose(search(keys[order], IMAGES[order]).x, whole.x[order], atol=1e-6)


@pytest.mark.slow
def test_runs_under_every_transformation(variant):
    solver = pgd_solver(Threat("linf", 0.1), steps=3, step_size=0.05)
    climbing = [margin, objectives.ce_to_uniform(LOGITS_FN)]

    def run(keys, x):
        warm = score_attacks.over_radii(
            lambda eps, start: score_attacks.lowered(
                pgd(Threat("linf", eps), steps=2, step_size=eps, start=start), margin
            ),
            (0.05, 0.1),
            direction="lower",
        )
        return score_attacks.raised(solver, margin, surrogates=climbing, restarts=2)(keys, x).value, warm(
            keys, x
        ).value[-1]

    args = keys_for(KEY, 6)[:4], IMAGES[:4]
    for got, want in zip(variant(run)(*args), jax.jit(run)(*args)):
        np.testing.assert_allclose(got, want, atol=1e-5)


def test_surrogates_are_what_they_say():
    logits = jnp.asarray(RNG.normal(size=(6, 4)), jnp.float32)
    p = np.asarray(jax.nn.softmax(logits), np.float64)
    same, entropy = (lambda x: logits), stats.entropy(p, axis=1)
    np.testing.assert_allclose(surrogates.toward_uniform(same)(X), np.log(p).mean(1), rtol=1e-5)
    np.testing.assert_allclose(surrogates.certain(same)(X), -entropy, rtol=1e-5)
    np.testing.assert_allclose(surrogates.certain_log(same)(X), -np.log(entropy), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(surrogates.uncertain_log(same)(X), np.log(entropy), rtol=1e-4, atol=1e-5)
    away = surrogates.away_from_rejection(same, classes=3)(X)
    np.testing.assert_allclose(away, -np.log(p[:, 3]), rtol=1e-5)
    odds = surrogates.toward_class(same, 2)(X)
    np.testing.assert_allclose(odds, np.log(p[:, 2] / (1 - p[:, 2])), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_strong_preset_is_the_strongest():
    """Per example, on both sides, no published attack at the same radius ends beyond it."""
    threat = Threat("linf", 8 / 255)
    strong = presets.strong(threat, margin, LOGITS_FN, steps=15, restarts=2)
    others = [
        presets.aloe(threat, margin, LOGITS_FN),
        presets.atom(threat, margin, objectives.ce_to_uniform(LOGITS_FN), steps=10),
        presets.atd(threat, margin, steps=10),
    ]
    low, high = (jax.jit(search)(KEY, IMAGES).value for search in strong)
    assert (high > margin(IMAGES)).all() and (low < margin(IMAGES)).all()
    assert others[1].on_id is None
    for attack in others:
        assert (high >= jax.jit(attack.on_ood)(KEY, IMAGES).value - 1e-3).all()
        if attack.on_id is not None:
            assert (low <= jax.jit(attack.on_id)(KEY, IMAGES).value + 1e-3).all()


@pytest.mark.slow
def test_the_strong_preset_moves_scores_without_slopes():
    """Gradients of a staircase are zero; random search climbs it all the same."""

    def stairs(x):
        return jnp.round(200 * margin(x)) / 200

    blind, seeing = (
        presets.strong(Threat("linf", 0.1), stairs, steps=5, restarts=1, queries=q) for q in (0, 200)
    )
    for without, given in zip(blind, seeing, strict=True):
        gain = jnp.abs(jax.jit(given)(KEY, IMAGES).value - stairs(IMAGES))
        assert (gain > jnp.abs(jax.jit(without)(KEY, IMAGES).value - stairs(IMAGES))).mean() > 0.8


@pytest.mark.slow
def test_odin_is_attacked_through_its_step_and_around_it():
    """All slopes are judged by the score with its step; none alone is the best for every example."""
    score = odin(LOGITS_FN, magnitude=0.02)
    plain = odin(LOGITS_FN, magnitude=0.0)
    ascent = pgd_solver(Threat("linf", 0.1), steps=15, step_size=0.02, start=at_origin)
    surrogates = [score, plain, objectives.ce_to_uniform(LOGITS_FN)]  # the last is the transfer of the papers
    searches = [
        score_attacks.raised(ascent, score, surrogates=some)
        for some in (*([w] for w in surrogates), surrogates)
    ]
    *each, all_three = jax.jit(lambda x: [search(KEY, x) for search in searches])(IMAGES)
    np.testing.assert_allclose(all_three.value, np.max([one.value for one in each], axis=0), atol=1e-5)
    np.testing.assert_allclose(all_three.value, score(all_three.x), rtol=1e-4, atol=1e-5)
    through, around, transfer = (np.asarray(one.value) for one in each)
    assert (all_three.value > score(IMAGES)).all()
    assert transfer.mean() <= np.maximum(through, around).mean() + 0.01
    assert (transfer < all_three.value - 1e-3).any() and (around < all_three.value - 1e-3).any()


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (
            lambda: score_attacks.raised(fgsm(Threat("linf", 0.1)), linear, restarts=0),
            "raised: restarts is 0",
        ),
        (lambda: score_attacks.highest(), "highest: no search"),
        (lambda: score_attacks.over_radii(lambda e, s: None, (0.1, 0.1), direction="raise"), "must rise"),
        (lambda: score_attacks.over_radii(lambda e, s: None, (0.1,), direction="in"), "direction is 'in'"),
        (lambda: uint8_pgd(Threat("l2", 0.1), steps=1), "threat is l2"),
        (lambda: uint8_pgd(Threat("linf", 0.1), steps=1, step=0), "step is 0"),
        (lambda: uint8_pgd(Threat("linf", 0.1), steps=np.float32(-1)), "steps is -1.0"),
        (lambda: uint8_pgd(Threat("linf", 0.1), steps=1, levels=jnp.float32(255)), "levels is Array"),
        (lambda: uint8_pgd(Threat("linf", 0.1), steps=1, start="round"), "start is 'round'"),
    ],
)
def test_settings_are_checked_when_built(build, says):
    with pytest.raises(ValueError, match=says):
        build()
