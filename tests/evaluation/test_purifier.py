"""Adaptive attacks on toy defences whose weakness is known, and the cases in which no number is printed."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustjax.attacks import flags, gated_objectives, masking_measurements
from robustjax.attacks.adaptive import substituted
from robustjax.attacks.gated_objectives import AttackedDefence, AttackParameters, Target
from robustjax.evaluation import defences, gated_cases, headline, pool, purifier
from robustjax.evaluation.defence_results import DefenceResults
from robustjax.evaluation.gated_cases import GatedCase
from robustjax.ood.gates import Gate, always
from robustjax.ood.translate import Defence
from robustjax.threats import Threat

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
W = jnp.asarray(RNG.normal(size=(16, 4)), jnp.float32)
X = jnp.asarray(RNG.uniform(0.3, 0.7, size=(16, 4, 4, 1)), jnp.float32)


def f(x):
    return 10 * (x.reshape(x.shape[0], -1) @ W)


Y = f(X).argmax(axis=1).astype(jnp.int32)
EDGE = jnp.asarray(np.where(np.arange(16).reshape(1, 4, 4, 1) < 8, 1.0, -1.0), jnp.float32)


def lean(x):
    """Score by how little the halves of an image differ, which f does not look at alone."""
    return -jnp.abs((x * EDGE).sum(axis=(1, 2, 3)))


def to_grey(keys, x):
    """Lead everything to one image: f after it says one class."""
    return 0.0 * x + 0.5


def rounding(keys, x):
    return jnp.round(x * 15.0) / 15.0


def masked(by_rounding, keys, x):
    """Round, or hide the slope: one function, so that both share their programs."""
    return jnp.where(by_rounding, rounding(keys, x), jax.lax.stop_gradient(x))


@jax.jit
def through(translate, x):
    return f(translate(None, x))


ALWAYS = Gate(always, jnp.float32(0.0))
BALL = Threat("linf", jnp.float32(0.15))


def run(defence, plan, threat=BALL, **more):
    return purifier.evaluate(KEY, defence, X, Y, threat, plan, batch_size=16, **more)


# --- surrogates on closed forms -----------------------------------------------------------------------------


def parameters(loss="margin", **more):
    return AttackParameters(gated_objectives.only(loss), **{name: jnp.float32(v) for name, v in more.items()})


DEFENCE = AttackedDefence(f, lambda x: f(0.5 * x + 0.2), lambda x: -0.2 - lean(x))
AIM = Target((Y + 1) % 4)


def value(surrogate, **more):
    both = surrogate(DEFENCE, Y, AIM, parameters(**more))
    return jax.jit(lambda x: both(x)[0])(X)


def test_the_merit_is_the_hard_margin_with_unseen_errors_first():
    plain = jnp.asarray([[2.0, 0.0], [0.0, 3.0], [0.0, 3.0], [2.0, 0.0]])
    through = plain[::-1]
    gap = jnp.asarray([-1.0, -1.0, 1.0, jnp.nan])
    found = gated_objectives.merit(plain, through, gap, jnp.zeros(4, jnp.int32))
    np.testing.assert_allclose(found, [-2, 3 + gated_objectives.UNSEEN, 3, -2])


def test_penalties_and_slack():
    margin, gap = value(gated_objectives.unseen), DEFENCE.gap(X)
    assert (gap > -0.05).any() and (gap < -0.05).any()
    found = value(gated_objectives.unseen, penalty=3.0, slack=0.05)
    np.testing.assert_allclose(found, margin - 3 * np.maximum(np.asarray(gap) + 0.05, 0), rtol=1e-5)
    found = value(gated_objectives.forced, penalty=3.0, slack=0.05)
    want = value(gated_objectives.forced) - 3 * np.maximum(0.05 - np.asarray(gap), 0)
    np.testing.assert_allclose(found, want, rtol=1e-5)


@pytest.mark.slow
def test_orthogonal_steps_leave_the_other_goal_and_selective_ones_take_turns():
    y = jnp.where(jnp.arange(16) < 8, Y, (Y + 1) % 4).astype(jnp.int32)  # the second half is fooled already
    up = jax.jit(
        jax.grad(lambda x: gated_objectives.mixed_loss(f(x), y, y, gated_objectives.only("margin")).sum())
    )(X).reshape(16, -1)
    down = jax.jit(jax.grad(lambda x: -DEFENCE.gap(x).sum()))(X).reshape(16, -1)
    turns, beside = (
        jax.jit(
            jax.grad(lambda x, surrogate=surrogate: surrogate(DEFENCE, y, AIM, parameters())(x)[0].sum())
        )(X).reshape(16, -1)
        for surrogate in (gated_objectives.selective, gated_objectives.orthogonal)
    )
    np.testing.assert_allclose(turns, jnp.concatenate([up[:8], down[8:]]), rtol=1e-5)
    np.testing.assert_allclose((beside[:8] * down[:8]).sum(1), 0, atol=1e-3)
    np.testing.assert_allclose((beside[8:] * up[8:]).sum(1), 0, atol=1e-3)
    assert ((beside[:8] * up[:8]).sum(1) > 0).all() and ((beside[8:] * down[8:]).sum(1) > 0).all()


def test_a_hard_soft_gate_is_the_gate():
    hard = value(gated_objectives.softened, warmth=1e-6, mix=1.0)
    want = np.where(DEFENCE.gap(X) > 0, value(gated_objectives.forced), value(gated_objectives.unseen))
    np.testing.assert_allclose(hard, want, rtol=1e-5)


def test_bpda_is_the_gradient_at_the_translation():
    through = substituted(lambda x: rounding(None, x))
    slope = jax.grad(lambda x: f(through(x))[:, 0].sum())(X)
    np.testing.assert_allclose(slope, jax.grad(lambda z: f(z)[:, 0].sum())(rounding(None, X)))


# --- attacks --------------------------------------------------------------------------------------------

SHORT = {"steps": 12, "restarts": 1, "queries": 60, "estimates": 0, "penalties": (15.0,), "targets": 0}


@pytest.mark.slow
@pytest.mark.parametrize("by_rounding", [True, False], ids=["rounding", "stop_gradient"])
def test_a_masked_translator_is_flagged_and_broken_all_the_same(by_rounding):
    translate = jax.tree_util.Partial(masked, jnp.asarray(by_rounding))
    defence = Defence(f, translate, ALWAYS)
    plan = [a for a in gated_cases.adaptive(4, **SHORT) if a.attack[:2] in ("A1", "A5", "A7")]
    found = run(defence, plan)
    left = {name[:2]: found.robust(name).mean() for name in found.attacks}
    assert left["A5"] <= 0.1 and left["A5"] < left["A1"] and left["A7"] < left["A1"]
    slopes, losses = masking_measurements.slope(
        jax.tree_util.Partial(through, translate), X, Y, jnp.asarray(False)
    )
    flag = flags.zero_gradient("cross-entropy", np.asarray(slopes), np.asarray(losses))
    told = {one.name for one in headline.masking(found, [flag]) if one.raised}
    assert "no gradient of cross-entropy" in told
    blind = [i for i, name in enumerate(found.attacks) if name[:2] != "A5"]
    fields = ("wrong", "tried", "margin")
    seen = dataclasses.replace(
        found, attacks=tuple(found.attacks[i] for i in blind), models=tuple(found.models[i] for i in blind),
        **{name: getattr(found, name)[blind] for name in fields},
    )  # fmt: skip
    assert "black box alone" in {flag.name for flag in headline.masking(seen) if flag.raised}


@pytest.mark.slow
def test_the_gate_is_bypassed_where_f_and_score_look_at_different_things():
    """Everything routed is lost or saved by T; A3 finds points that the gate passes and f gets wrong."""
    defence = Defence(f, to_grey, Gate(lean, jnp.float32(-0.5), jnp.float32(0.5)), (lean_features,))
    plan = [a for a in gated_cases.adaptive(4, **SHORT) if a.attack[:2] in ("A3", "A6")]
    plan = [a for a in plan if a.surrogate in (gated_objectives.selective, gated_objectives.matched)]
    plan = [*gated_cases.static(8)[1:2], *plan]
    ticks = []
    found = run(defence, plan, pool=(X, Y), progress=ticks.append)
    assert found.feasible.all() and len(ticks) >= 3
    bypass = found.attacks.index("A3 gate bypass")
    assert found.unseen[bypass].mean() >= 0.9 and found.in_distribution().mean() >= 0.9
    for i in range(len(found.attacks)):  # outcomes are those of the defence, recomputed here
        z = found.x[i]
        routed = np.asarray(lean(z)) < -0.5
        said = np.where(routed, f(to_grey(None, z)).argmax(1), f(z).argmax(1))
        answers_wrong = said != np.asarray(Y)
        assert (answers_wrong == found.wrong[i]).all()
        assert (found.unseen[i] == (~routed & answers_wrong)).all()
        assert np.abs(z - np.asarray(X)).max() <= 0.15 + 1e-6 and z.min() >= 0 and z.max() <= 1
    assert (found.robust() <= found.robust("TM0")).all()


def lean_features(x):
    return x.reshape(x.shape[0], -1)


@pytest.mark.slow
def test_sweeps_of_radius_penalty_and_parameters_compile_nothing():
    def scaled(scale, x):
        return scale * f(x)

    def defence(scale):
        return Defence(
            jax.tree_util.Partial(scaled, jnp.float32(scale)), rounding, Gate(lean, jnp.float32(-0.5))
        )

    one = GatedCase("A3", "TM3", gated_objectives.unseen, steps=11, penalty=1.0)
    run(defence(1.0), [one])
    before = pool.SEGMENT.of(0.0)._cache_size()
    for eps, penalty, scale in ((0.1, 1.0, 1.0), (0.2, 9.0, 2.0), (1.0, 0.1, 3.0)):
        swept = dataclasses.replace(one, penalty=penalty, loss="dlr", rank=1)
        run(defence(scale), [swept], threat=Threat("linf", jnp.float32(eps)))
    assert pool.SEGMENT.of(0.0)._cache_size() == before > 0


# --- when a number is printed ---------------------------------------------------------------------------


def outcome(n=250, attacks=("PGD on f", "A1 x", "A2 x", "A3 x", "A4 x")):
    a = len(attacks)
    logits = np.tile(np.eye(4), (n, 1))[:n]
    wrong = np.zeros((a, n), bool)
    wrong[1, : n // 2] = True
    return DefenceResults(
        attacks, ("TM0", *["TM3"] * (a - 1)), logits.argmax(1), logits, logits, np.zeros(n, bool), wrong, wrong,
        np.ones((a, n), bool), np.zeros((a, n)), np.zeros((a, n)), np.zeros((a, n, 2, 2, 1)), np.ones(a, bool),
        np.ones(a), np.ones(a), np.ones(a, int),
    )  # fmt: skip


IMAGES = RNG.uniform(size=(250, 2, 2, 1)).astype(np.float32)
OTHERS = RNG.uniform(size=(9, 2, 2, 1)).astype(np.float32)


def asked(found=None, **more):
    found = found or outcome()
    facts = {"images": IMAGES, "calibration": OTHERS, "single": found.through[:4], "at_one": 0.0} | more
    return headline.headline(found, **facts)


def test_the_worst_case_is_the_headline_beside_the_static_number():
    told = asked()
    assert told.estimate is not None and told.static is not None
    assert told.estimate.value == 0.5 and told.static.value == 1.0 and not told.refusals
    assert "robust accuracy 50.0" in told.says and "50 points too high" in told.says
    models = headline.by_threat_model(outcome())
    assert models["TM3"].value == 0.5 and models["TM0"].value == 1.0


@pytest.mark.parametrize(
    ("why", "change"),
    [
        ("A3 not run", {"found": outcome(attacks=("PGD on f", "A1 x", "A2 x", "A4 x"))}),
        ("199 examples", {"found": outcome(199), "images": IMAGES[:199]}),
        ("points of A1 x left the ball", {"found": dataclasses.replace(outcome(), feasible=np.arange(5) != 1)}),
        ("comes from test images: 2 of", {"calibration": np.concatenate([OTHERS, IMAGES[3:5]])}),
        ("not known which images", {"calibration": None}),
        ("depends on the batch: logits", {"single": outcome().through[:4] + 0.1}),
        ("not known whether the translator", {"single": None}),
        ("radius 1 leaves 6.0 %", {"at_one": 0.06}),
        ("radius 1 was not tried", {"at_one": None}),
    ],
)  # fmt: skip
def test_no_number_without_the_evidence(why, change):
    told = asked(**change)
    assert told.estimate is None and len(told.refusals) == 1 and why in told.says
    assert "no robust accuracy" in told.says


def test_plans_that_ask_for_what_is_not_there():
    defence = Defence(f, rounding, ALWAYS)
    with pytest.raises(ValueError, match="transfers from a source"):
        run(defence, gated_cases.transferred(3))
    with pytest.raises(ValueError, match="matches features"):
        run(defence, [GatedCase("A6", "TM3", gated_objectives.matched)])
    with pytest.raises(ValueError, match="0 cases"):
        run(defence, [])
    with pytest.raises(ValueError, match="several goals"):
        unseen = GatedCase("A3", "TM3", gated_objectives.unseen, goal="unseen")
        run(defence, [unseen, dataclasses.replace(unseen, goal="wrong")])
    with pytest.raises(ValueError, match="loss is 'hinge'"):
        gated_objectives.only("hinge")


class Diary:
    """Keeps everything, and is killed after some segments."""

    def __init__(self):
        self.kept, self.lives = None, 10**9

    def load(self):
        return self.kept

    def keep(self, arrays):
        self.kept = {name: np.array(value) for name, value in arrays().items()}
        self.lives -= 1
        if self.lives == 0:
            raise KeyboardInterrupt


def test_killed_and_resumed_it_is_the_same_bit_for_bit():
    defence = Defence(f, rounding, ALWAYS)
    plan = [one for one in gated_cases.adaptive(4, **SHORT) if one.attack[:2] == "A1"]
    whole, diary, found = run(defence, plan), Diary(), None
    kills = 0
    while found is None:
        diary.lives = 2
        try:
            found = run(defence, plan, memory=lambda name: diary)
        except KeyboardInterrupt:
            kills += 1
    assert kills > 0
    for name in ("wrong", "unseen", "margin", "x", "gradients", "runs"):
        np.testing.assert_array_equal(getattr(found, name), getattr(whole, name), err_msg=name)


def test_draws_in_chunks_give_the_values_and_gradients_of_all_at_once():
    """f after T = x plus noise of its own draw: the mean over four draws, two at a time."""
    noisy = Defence(
        f, lambda keys, x: x + 0.2 * jax.vmap(lambda k: jax.random.normal(k, x.shape[1:]))(keys), ALWAYS
    )
    keys = jax.random.split(KEY, len(X))

    def value(x, chunk_size):
        seen = defences.attacked(noisy, keys, slope="exact", samples=4, chunk_size=chunk_size)
        return jnp.square(seen.through(x)).sum()

    one, other = (jax.jit(jax.value_and_grad(lambda x, c=c: value(x, c)))(X) for c in (None, 2))
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-2)
    with pytest.raises(ValueError, match="chunk_size is 0"):
        purifier.evaluate(KEY, noisy, X, Y, BALL, gated_cases.static(), chunk_size=0)
