"""The training loop's state and its one compiled step, for any Loss."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding
from jaxtyping import Array, Int, PRNGKeyArray, PyTree

from robustjax import checks
from robustjax.traced import default_platform
from robustjax.types import Images, Loss, Metrics, Model, Number, Params, State


class TrainState(NamedTuple):
    """All that a run needs to go on, arrays only.

    `key` never changes: step t uses `fold_in(key, t)`, so a resumed run draws what the uninterrupted one would.
    `ema` averages (params, state), as `exponential` or `even` say, or is None.
    """

    step: Int[Array, ""]
    key: PRNGKeyArray
    params: Params
    state: State
    opt_state: PyTree
    ema: tuple[Params, State] | None


Step = Callable[[TrainState, Any], tuple[TrainState, Metrics]]
Average = Callable[[PyTree, PyTree, Int[Array, ""]], PyTree]  # (average, new, updates before) -> average


def start(
    key: PRNGKeyArray,
    model: Model,
    tx: optax.GradientTransformation,
    mesh: Mesh | None = None,
    *,
    ema: bool = False,
) -> TrainState:
    """Draw the initial state, the same on every device of the mesh.

    Args:
      key: seeds the parameters and, folded with the step, all later randomness of the loss.
      model: what to train.
      tx: the optimiser.
      mesh: where the state lives, replicated; the default device if None.
      ema: keep an average of parameters and BatchNorm statistics; how is said to `step`.
    """

    def draw(key: PRNGKeyArray) -> TrainState:
        first, later = jax.random.split(key)
        params, state = model.init(first)
        average = (params, state) if ema else None
        return TrainState(jnp.zeros((), jnp.int32), later, params, state, tx.init(params), average)

    return once(draw, None if mesh is None else NamedSharding(mesh, PartitionSpec()))(key)


def once(function: Callable[..., Any], out_shardings: Sharding | None = None) -> Callable[..., Any]:
    """Compile what will run a single time, such as the draw of a network: on a CPU with little optimisation.

    A draw holds a loop of random bits for every parameter, whose optimisation takes seconds and saves nothing. The
    numbers are the same up to their last bit. Within another jit it is a plain `jax.jit`: there the outer one decides.

    Args:
      function: what to compile.
      out_shardings: of the results; where they are not given, the default device computes.
    """

    def run(*args: Any) -> Any:
        if isinstance(jnp.zeros(()), Tracer):
            return jax.jit(function, out_shardings=out_shardings)(*args)
        places = {device.platform for device in out_shardings.device_set} if out_shardings else set()
        quick = (places or {default_platform()}) == {"cpu"}
        options = {"xla_backend_optimization_level": 1} if quick else None
        return jax.jit(function, out_shardings=out_shardings, compiler_options=options)(*args)

    return run


def exponential(decay: Number = 0.999) -> Average:
    """Build the moving average of the weights: `moving_average` with a decay.

    Raises:
      ValueError: if a known decay is outside [0, 1].
    """
    checks.number("exponential", "decay", decay, least=0, most=1)
    return lambda average, new, updates: moving_average(average, new, updates, decay)


def even(*, start: Number = 0, every: int = 1) -> Average:
    """Build the even average of the weights after `start` updates, each `every`-th one; until then the newest weights.

    The statistics of BatchNorm that belong to averaged weights are not the average of the iterates': `renewal` computes
    them.

    Args:
      start: updates before the first that counts.
      every: updates from one that counts to the next.
    Raises:
      ValueError: if a known start is negative, or every is below 1.

    Reference: Izmailov et al. 2018, arXiv:1803.05407 (SWA).
    """
    checks.number("even", "start", start, least=0)
    checks.count("even", "every", every)

    def average(average: PyTree, new: PyTree, updates: Int[Array, ""]) -> PyTree:
        since = updates + 1 - jnp.asarray(start, jnp.int32)
        number = jnp.maximum(since // every, 0)  # of this iterate, from 1
        counts = (number > 0) & (since % every == 0)
        share = jnp.where(counts, 1.0 / jnp.maximum(number, 1).astype(jnp.float32), 0.0)
        share = jnp.where(since <= 0, 1.0, share)
        return jax.tree.map(lambda a, b: (a + share * (b - a)).astype(b.dtype), average, new)

    return average


def step(loss: Loss, tx: optax.GradientTransformation, *, average: Average | None = None) -> Step:
    """Compile (state, batch) -> (state, metrics): one gradient, one update; the old state is donated.

    With the state replicated and the batch sharded over a mesh, the compiler adds one mean over devices and
    nothing else changes; BatchNorm statistics are then those of the global batch.

    Args:
      loss: any `Loss`.
      tx: the optimiser given to `start`.
      average: of the weights, where `start` was asked for one; by default `exponential(0.999)`.

    Returns:
      The step; its metrics are the loss's, with `loss`, the value itself.
    """
    return scheduled(lambda t: loss, tx, average=average)


def scheduled(
    loss_at: Callable[[Int[Array, ""]], Loss],
    tx: optax.GradientTransformation,
    *,
    average: Average | None = None,
) -> Step:
    """Compile a step whose loss follows the number of updates done, traced: a growing radius, a falling weight.

    Args:
      loss_at: builds the loss from the count, as in
        `lambda t: adversarial(model, attack(Threat("linf", jnp.minimum(t / 1000, 1.0) * eps)))`.
      tx, average: as in `step`.
    """
    averaged = exponential() if average is None else average

    def one(now: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(now.key, now.step)
        slope = jax.value_and_grad(loss_at(now.step), has_aux=True)
        (value, (state, metrics)), grads = slope(now.params, now.state, batch, key)
        updates, opt_state = tx.update(grads, now.opt_state, now.params)
        params = optax.apply_updates(now.params, updates)
        ema = None if now.ema is None else averaged(now.ema, (params, state), now.step)
        then = TrainState(now.step + 1, now.key, params, state, opt_state, ema)
        return then, {"loss": value, **metrics}

    return jax.jit(one, donate_argnums=0)


def moving_average(average: PyTree, new: PyTree, updates: Int[Array, ""], decay: Number) -> PyTree:
    """Move an average towards new values, after `updates` earlier ones; the first update copies.

    The decay is capped early on, min(decay, (1 + t) / (10 + t)) after t updates.

    Reference: the warm-up of the decay, (1 + t) / (10 + t), is TensorFlow's ExponentialMovingAverage with
      num_updates, used by Rebuffi et al. 2021, arXiv:2103.01946.
    """
    t = updates.astype(jnp.float32)
    keep = jnp.where(updates == 0, 0.0, jnp.minimum(decay, (1.0 + t) / (10.0 + t)))
    return jax.tree.map(lambda a, b: (keep * a + (1.0 - keep) * b).astype(b.dtype), average, new)


def renewal(model: Model) -> Callable[[Params, State, Iterable[Images]], State]:
    """Build (params, state, batches of images) -> the state with BatchNorm statistics of these parameters.

    Each is the mean over batches of what a batch has. In train mode a statistic r becomes m r + (1 - m) b, with b of
    the batch and a momentum m, whatever the library: its value at r = 0 and its slope there give b. What a batch does
    not move, and what are no floats, stay as they are. One program serves all calls.

    Args:
      model: whose `apply` updates the state in train mode, and draws nothing.
    Returns:
      The function; called, it raises ValueError if there is no batch.

    Reference: Izmailov et al. 2018, arXiv:1803.05407: averaged weights (SWA) need statistics of their own.
    """

    @jax.jit
    def of_batch(params: Params, state: State, x: Images) -> State:
        leaves, form = jax.tree.flatten(state)
        moving = [i for i, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.floating)]

        def after(values: list[Array]) -> list[Array]:
            given = list(leaves)
            for i, value in zip(moving, values, strict=True):
                given[i] = value
            new = jax.tree.leaves(model.apply(params, jax.tree.unflatten(form, given), x, train=True)[1])
            return [new[i] for i in moving]

        zeros, ones = ([filled(leaves[i]) for i in moving] for filled in (jnp.zeros_like, jnp.ones_like))
        for i, low, keep in zip(moving, *jax.jvp(after, (zeros,), (ones,)), strict=True):
            leaves[i] = jnp.where(keep < 1, low / jnp.where(keep < 1, 1.0 - keep, 1.0), leaves[i])
        return jax.tree.unflatten(form, leaves)

    def renewed(params: Params, state: State, images: Iterable[Images]) -> State:
        mean, count = state, 0
        for x in images:
            count += 1
            found, share = of_batch(params, state, x), jnp.float32(1 / count)
            mean = found if count == 1 else jax.tree.map(lambda a, b, s=share: _towards(a, b, s), mean, found)
        if not count:
            raise ValueError("renewal: no batch given, must be at least one")
        return mean

    return renewed


def _towards(mean: Array, new: Array, share: Array) -> Array:
    floats = jnp.issubdtype(new.dtype, jnp.floating)
    return (mean + share * (new - mean)).astype(new.dtype) if floats else new


def for_evaluation(state: TrainState) -> tuple[Params, State]:
    """Return the parameters and network state to evaluate: the moving average if there is one."""
    return (state.params, state.state) if state.ema is None else state.ema
