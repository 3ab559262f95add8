"""The training loop's state and its one compiled step, for any Loss."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding
from jaxtyping import Array, Int, PRNGKeyArray, PyTree

from robustjax.traced import default_platform
from robustjax.types import Loss, Metrics, Model, Number, Params, State


class TrainState(NamedTuple):
    """All that a run needs to go on, arrays only.

    `key` never changes: step t uses `fold_in(key, t)`, so a resumed run draws what the uninterrupted one would.
    `ema` averages (params, state), or is None.
    """

    step: Int[Array, ""]
    key: PRNGKeyArray
    params: Params
    state: State
    opt_state: PyTree
    ema: tuple[Params, State] | None


Step = Callable[[TrainState, Any], tuple[TrainState, Metrics]]


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
      ema: keep a moving average of parameters and BatchNorm statistics.
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


def step(loss: Loss, tx: optax.GradientTransformation, *, ema_decay: Number = 0.999) -> Step:
    """Compile (state, batch) -> (state, metrics): one gradient, one update; the old state is donated.

    With the state replicated and the batch sharded over a mesh, the compiler adds one mean over devices and
    nothing else changes; BatchNorm statistics are then those of the global batch.

    Args:
      loss: any `Loss`.
      tx: the optimiser given to `start`.
      ema_decay: decay of the moving average, capped early on: min(ema_decay, (1 + t) / (10 + t)) after t
        updates, and the first update copies.

    Returns:
      The step; its metrics are the loss's, with `loss`, the value itself.
    """
    return scheduled(lambda t: loss, tx, ema_decay=ema_decay)


def scheduled(
    loss_at: Callable[[Int[Array, ""]], Loss], tx: optax.GradientTransformation, *, ema_decay: Number = 0.999
) -> Step:
    """Compile a step whose loss follows the number of updates done, traced: a growing radius, a falling weight.

    Args:
      loss_at: builds the loss from the count, as in
        `lambda t: adversarial(model, attack(Threat("linf", jnp.minimum(t / 1000, 1.0) * eps)))`.
      tx, ema_decay: as in `step`.
    """

    def one(now: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(now.key, now.step)
        slope = jax.value_and_grad(loss_at(now.step), has_aux=True)
        (value, (state, metrics)), grads = slope(now.params, now.state, batch, key)
        updates, opt_state = tx.update(grads, now.opt_state, now.params)
        params = optax.apply_updates(now.params, updates)
        ema = None if now.ema is None else moving_average(now.ema, (params, state), now.step, ema_decay)
        then = TrainState(now.step + 1, now.key, params, state, opt_state, ema)
        return then, {"loss": value, **metrics}

    return jax.jit(one, donate_argnums=0)


def moving_average(average: PyTree, new: PyTree, updates: Int[Array, ""], decay: Number) -> PyTree:
    """Move an average towards new values, after `updates` earlier ones; the first update copies.

    Reference: the warm-up of the decay, (1 + t) / (10 + t), is TensorFlow's ExponentialMovingAverage with
      num_updates, used by Rebuffi et al. 2021, arXiv:2103.01946.
    """
    t = updates.astype(jnp.float32)
    keep = jnp.where(updates == 0, 0.0, jnp.minimum(decay, (1.0 + t) / (10.0 + t)))
    return jax.tree.map(lambda a, b: (keep * a + (1.0 - keep) * b).astype(b.dtype), average, new)


def for_evaluation(state: TrainState) -> tuple[Params, State]:
    """Return the parameters and network state to evaluate: the moving average if there is one."""
    return (state.params, state.state) if state.ema is None else state.ema
