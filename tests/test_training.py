"""The training step: averages, schedules, optimisers against PyTorch's definition, and any number of devices."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from robustjax import logit, optimizers, training
from robustjax.attacks import compose, objectives
from robustjax.attacks.pgd import pgd
from robustjax.losses.adversarial import adversarial
from robustjax.losses.standard import standard
from robustjax.models import small
from robustjax.threats import Threat
from robustjax.types import Batch

RNG = np.random.default_rng(0)
SHAPE = (6, 6, 1)
MODEL = small.convnet_small(classes=3, shape=SHAPE)
TX = optimizers.sgd(0.05)


def batch(i, size=16):
    rng = np.random.default_rng(i)
    return Batch(
        jnp.asarray(rng.uniform(size=(size, *SHAPE)), jnp.float32),
        jnp.asarray(rng.integers(0, 3, size), jnp.int32),
    )


def mesh(count):
    return jax.make_mesh(
        (count,), ("data",), devices=jax.devices()[:count], axis_types=(jax.sharding.AxisType.Auto,)
    )


def attacked(model):
    ascent = pgd(Threat("linf", 0.1), steps=3, step_size=0.05)
    return adversarial(model, compose.against(ascent, objectives.cross_entropy))


@pytest.mark.slow
def test_one_device_is_eight_devices():
    finals = []
    for count in (1, 8):
        where = mesh(count)
        state = training.start(jax.random.key(0), MODEL, TX, where, ema=True)
        update = training.step(attacked(MODEL), TX)
        for i in range(4):
            rows = jax.device_put(batch(i), NamedSharding(where, PartitionSpec("data")))
            state, metrics = update(state, rows)
        finals.append((state.params, state.ema, metrics))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), *finals)


@pytest.mark.slow
def test_compiled_step_talks_between_devices_once_and_never_all_to_all():
    """All gradients travel in one group: the all-reduces of one step carry the parameters once, and nothing else."""
    where = mesh(8)
    state = training.start(jax.random.key(0), MODEL, TX, where)
    rows = jax.device_put(batch(0), NamedSharding(where, PartitionSpec("data")))
    hlo = training.step(attacked(MODEL), TX).lower(state, rows).compile().as_text()
    assert "all-to-all" not in hlo and "all-gather" not in hlo and "collective-permute" not in hlo
    groups = [line for line in hlo.splitlines() if " all-reduce(" in line or " all-reduce-start(" in line]
    assert len(groups) == 1, groups


@pytest.mark.slow
def test_a_run_cut_in_two_is_the_run():
    update = training.step(attacked(MODEL), TX)
    whole = training.start(jax.random.key(3), MODEL, TX, ema=True)
    for i in range(6):
        whole, _ = update(whole, batch(i))
    part = training.start(jax.random.key(3), MODEL, TX, ema=True)
    for i in range(3):
        part, _ = update(part, batch(i))
    part = jax.tree.map(jnp.copy, part)
    for i in range(int(part.step), 6):
        part, _ = update(part, batch(i))
    jax.tree.map(np.testing.assert_array_equal, whole._replace(key=0), part._replace(key=0))


@pytest.mark.slow
def test_a_draw_compiled_once_is_the_optimised_one():
    for seed in range(5):
        key = jax.random.key(seed)
        chex.assert_trees_all_close(training.once(MODEL.init)(key), jax.jit(MODEL.init)(key), atol=1e-7)


@pytest.mark.slow
def test_a_start_may_be_part_of_a_program():
    def start(seed):
        return training.start(jax.random.key(seed), MODEL, TX).params

    alone, inside = start(jnp.uint32(5)), jax.jit(start)(jnp.uint32(5))
    chex.assert_trees_all_close(alone, inside, atol=1e-7)
    mapped = jax.vmap(start)(jnp.arange(4, 7, dtype=jnp.uint32))
    chex.assert_trees_all_close(jax.tree.map(lambda leaf: leaf[1], mapped), alone, atol=1e-7)


@pytest.mark.slow
def test_ema_starts_as_a_copy_and_then_follows_the_warmed_up_decay():
    state = training.start(jax.random.key(0), MODEL, TX, ema=True)
    update = training.step(standard(MODEL), TX, average=training.exponential(0.999))
    expected = None
    for t in range(5):
        state, _ = update(state, batch(t))
        keep = 0.0 if t == 0 else min(0.999, (1 + t) / (10 + t))
        now = [np.asarray(a) for a in jax.tree.leaves(state.params)]
        expected = (
            now
            if expected is None
            else [keep * e + (1 - keep) * n for e, n in zip(expected, now, strict=True)]
        )
    for a, b in zip(jax.tree.leaves(state.ema[0]), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    assert training.for_evaluation(state) is state.ema


@pytest.mark.slow
def test_a_schedule_is_traced_with_the_step():
    seen = []

    def loss_at(t):
        seen.append(1)

        def loss(params, state, batch, key):
            value, aux = standard(MODEL)(params, state, batch, key)
            return value * t.astype(jnp.float32), aux

        return loss

    update = training.scheduled(loss_at, optax.sgd(1.0))
    state = training.start(jax.random.key(0), MODEL, optax.sgd(1.0))
    values = []
    for _ in range(3):
        before = jax.tree.map(jnp.copy, state.params)
        state, metrics = update(state, batch(0))
        values.append(float(metrics["loss"] / metrics["risk"]))
        if len(values) == 1:  # weight 0: nothing may move
            jax.tree.map(np.testing.assert_array_equal, before, state.params)
    np.testing.assert_allclose(values, [0, 1, 2], rtol=1e-5)
    assert len(seen) == 1


def test_sgd_is_pytorchs_definition():
    """Decay joins the gradient, the buffer starts at the first gradient, Nesterov looks ahead; in float64."""
    rng = np.random.default_rng(0)
    hessian, w = np.diag([1.0, 4.0, 0.3]), rng.normal(size=3)
    ours, buffer = jnp.asarray(w, jnp.float32), None
    tx = optimizers.sgd(0.1, momentum=0.9, nesterov=True, weight_decay=0.05)
    opt_state = tx.init(ours)
    for _ in range(5):
        grad = hessian @ w + 0.05 * w
        buffer = grad if buffer is None else 0.9 * buffer + grad
        w = w - 0.1 * (grad + 0.9 * buffer)
        updates, opt_state = tx.update(jnp.asarray(hessian, jnp.float32) @ ours, opt_state, ours)
        ours = optax.apply_updates(ours, updates)
    np.testing.assert_allclose(ours, w, rtol=1e-5)


@pytest.mark.oracle
@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_optimisers_equal_torch(name):
    torch = pytest.importorskip("torch")
    w0 = np.random.default_rng(0).normal(size=4)
    theirs = torch.tensor(w0, dtype=torch.float64, requires_grad=True)
    if name == "sgd":
        opt = torch.optim.SGD([theirs], lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
        tx = optimizers.sgd(0.1)
    else:
        opt = torch.optim.Adam([theirs], lr=0.1, weight_decay=1e-2)
        tx = optimizers.adam(0.1, weight_decay=1e-2)
    ours = jnp.asarray(w0, jnp.float32)
    opt_state = tx.init(ours)
    for _ in range(6):
        opt.zero_grad()
        (theirs**4).sum().backward()
        opt.step()
        with jax.numpy_dtype_promotion("standard"):  # optax's Adam raises a float to an int
            updates, opt_state = tx.update(jax.grad(lambda w: (w**4).sum())(ours), opt_state, ours)
            ours = optax.apply_updates(ours, updates)
    np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=1e-4)


def test_schedules_pass_through_their_stated_values():
    cosine = optimizers.cosine(0.1, 100)
    np.testing.assert_allclose(
        [cosine(0), cosine(25), cosine(50), cosine(100)], [0.1, 0.0853553, 0.05, 0.0], atol=1e-6
    )
    cycle = optimizers.one_cycle(0.2, 100, peak=0.4)
    np.testing.assert_allclose(
        [cycle(0), cycle(20), cycle(40), cycle(70), cycle(100)], [0, 0.1, 0.2, 0.1, 0], atol=1e-6
    )
    steps = optimizers.piecewise(1.0, 100, at=(0.5, 0.75))
    np.testing.assert_allclose([steps(49), steps(51), steps(76)], [1.0, 0.1, 0.01], rtol=1e-5)


def test_stages_begin_anew():
    """Two updates of one optimiser, then three of another: as if the second had never seen the first."""

    def stage(updates):
        return optimizers.sgd(optimizers.piecewise(0.1, updates, at=(0.5,)), momentum=0.9)

    def run(tx, w, count):
        opt_state = tx.init(w)
        for _ in range(count):
            with jax.numpy_dtype_promotion("standard"):  # optax's schedules count in integers
                updates, opt_state = jax.jit(tx.update)(4 * w**3, opt_state, w)
            w = optax.apply_updates(w, updates)
        return w

    w = jnp.array([1.0, -0.5])
    both = optimizers.in_stages(stage(2), stage(3), at=2)
    np.testing.assert_allclose(run(both, w, 5), run(stage(3), run(stage(2), w, 2), 3), rtol=1e-6)
    assert np.abs(run(both, w, 5) - run(stage(5), w, 5)).max() > 1e-3


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: optimizers.in_stages(TX, TX, at=0), "at is 0"),
        (lambda: optimizers.sgd(0.1, momentum=1.0), "momentum is 1.0"),
        (lambda: optimizers.sgd(0.1, weight_decay=-1.0), "weight_decay is -1.0"),
        (lambda: optimizers.piecewise(0.1, 10, at=(0.5, 2.0)), "shares of the run"),
        (lambda: optimizers.one_cycle(0.1, 10, peak=0.0), "peak is 0.0"),
    ],
)
def test_bad_settings_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.slow
def test_training_learns():
    """A separable problem is solved, whatever the seed."""
    state = training.start(jax.random.key(1), MODEL, TX)
    update = training.step(standard(MODEL), TX)
    centres = RNG.uniform(size=(3, *SHAPE))
    for i in range(60):
        rng = np.random.default_rng(i)
        label = rng.integers(0, 3, 32)
        image = np.clip(centres[label] + 0.1 * rng.normal(size=(32, *SHAPE)), 0, 1)
        state, metrics = update(state, Batch(jnp.asarray(image, jnp.float32), jnp.asarray(label, jnp.int32)))
    assert metrics["accuracy"] > 0.95
    assert logit.correct(
        MODEL.apply(state.params, state.state, jnp.asarray(centres, jnp.float32))[0], jnp.arange(3)
    ).all()
