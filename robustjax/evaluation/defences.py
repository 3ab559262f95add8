"""A defence behind a gate and a translator as compiled programs: one search, and the verdict on points."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from robustjax import logit
from robustjax.attacks import gated_objectives
from robustjax.attacks.adaptive import averaged, substituted
from robustjax.attacks.gated_objectives import AttackParameters, Target, View
from robustjax.ood.translate import Defence
from robustjax.threats import Threat
from robustjax.types import Images, Labels

SEGMENT = 10  # iterations between two looks at whether all rows are done


class Look(NamedTuple):
    """What the hard defence says of points, one row each."""

    plain: Any
    through: Any
    gap: Any
    margin: Any
    merit: Any
    inside: Any


def seen_by(defence: Defence, keys: PRNGKeyArray, *, slope: str, passes: int | None) -> View:
    """Look at a defence as an attacker: a fixed draw or the mean of several, true slopes or those of the identity."""

    def translate(keys: PRNGKeyArray, x: Images) -> Images:
        return jnp.clip(defence.translate(keys, x), 0.0, 1.0)

    def stochastic(keys: PRNGKeyArray, x: Images) -> Array:
        z = translate(keys, x) if slope == "exact" else substituted(partial(translate, keys))(x)
        return defence.logits_fn(z)

    def drawn(noise: PRNGKeyArray, x: Images) -> Array:
        # An image's draws hang on its own key and its bits, not on who shares its batch.
        own = jax.vmap(lambda key, other: jax.random.fold_in(key, jax.random.bits(other)))(keys, noise)
        return stochastic(own, x)

    through = partial(stochastic, keys)
    if passes is not None:
        through = averaged(drawn, jax.random.key(0), passes=passes, of=jax.nn.log_softmax)
    return View(defence.logits_fn, through, defence.gate.gap, defence.features)


def as_argument(defence: Defence) -> Defence:
    """Make every function of a defence a pytree, so that it can be passed to compiled functions."""

    def passable(function: Any) -> Any:
        return function if isinstance(function, jax.tree_util.Partial) else jax.tree_util.Partial(function)

    gate = defence.gate._replace(score=passable(defence.gate.score))
    parts = passable(defence.logits_fn), passable(defence.translate), gate
    return Defence(*parts, tuple(passable(one) for one in defence.features))


@partial(jax.jit, static_argnames=("surrogate", "search", "steps", "slope", "anneal", "passes"))
def attempted(
    defence: Defence, keys: PRNGKeyArray, x: Array, y: Labels, target: Target, *,
    threat: Threat, parameters: AttackParameters, number: Any,
    surrogate: Any, search: Any, steps: int, slope: str, anneal: float, until: Any, passes: int | None,
) -> tuple[Array, Array]:  # fmt: skip
    """Run one search on all rows until every merit is above `until`: the points, and the iterations made.

    See `attempts.GatedCase` for what is static; everything else may change without compiling anew. Rows that are
    done go on with the others, and keep their best point.
    """
    view = seen_by(defence, keys, slope=slope, passes=passes)
    solver = search(threat, steps)
    draws = jax.vmap(jax.random.fold_in, (0, None))(keys, number + 1)

    def going(carry: tuple[Any, Array]) -> Array:
        state, made = carry
        return (made < solver.length) & ~(solver.finish(state).value > until).all()

    def segment(carry: tuple[Any, Array]) -> tuple[Any, Array]:
        state, made = carry
        # From soft to hard: the last segment has the width that was asked for.
        late = jnp.minimum((made + SEGMENT) / solver.length, 1.0)
        now = parameters._replace(warmth=parameters.warmth * anneal ** (1.0 - late))
        return solver.advance(surrogate(view, y, target, now), state, SEGMENT), made + SEGMENT

    state, made = jax.lax.while_loop(going, segment, (solver.init(draws, x), jnp.int32(0)))
    return solver.finish(state).x, jnp.full(len(x), jnp.minimum(made, solver.length))


@partial(jax.jit, static_argnames=("passes",))
def looked(
    defence: Defence,
    keys: PRNGKeyArray,
    x: Array,
    origin: Array,
    y: Labels,
    threat: Threat,
    *,
    passes: int | None,
) -> Look:
    """Judge points by the hard defence."""
    view = seen_by(defence, keys, slope="exact", passes=passes)
    plain, through, gap = view.plain(x), view.through(x), view.gap(x)
    hard = jnp.where((gap <= 0)[:, None], plain, through)
    wrong = hard.argmax(axis=1) != y
    # The verdict is the class itself: a tie that argmax decides for the label is no success.
    value = gated_objectives.merit(plain, through, gap, y)
    value = jnp.where(wrong, jnp.maximum(value, 1e-30), jnp.minimum(value, 0.0))
    return Look(plain, through, gap, logit.margin(hard, y), value, threat.contains(x, origin))
