"""OOD-to-ID translation as a defence: F(x) = f(T(x)) where a gate detects x as OOD, f(x) elsewhere."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray
from numpy.typing import ArrayLike

from robustjax.numerics import fold, in_float32, keys_for
from robustjax.ood.gates import Decide, Gate
from robustjax.types import Images, Keys, Labels, Logits, LogitsFn, Mask

Translate = Callable[[Keys, Images], Images]  # one key per example; a deterministic one ignores them


class Defence(NamedTuple):
    """A classifier with a gate and a translator in front of it.

    With `jax.tree_util.Partial`s as functions it is an argument for compiled functions, so that other parameters,
    as of another seed, compile nothing anew.

    Attributes:
      logits_fn: f.
      translate: T, per example and pure; its results are cut to [0, 1].
      gate: which inputs go through T.
      features: what an attack may match (b, d) features of, such as those of the encoder; may be empty.
    """

    logits_fn: LogitsFn
    translate: Translate
    gate: Gate
    features: tuple[Callable[[Images], Array], ...] = ()


class Routed(NamedTuple):
    """What a defence answers: logits, which inputs were translated, and both answers for every input."""

    logits: Logits
    routed: Mask
    plain: Logits
    through: Logits


def identity(key: Keys, x: Images) -> Images:
    """Translate nothing."""
    del key
    return x


def defended(defence: Defence, *, decide: Decide | None = None) -> Callable[[Keys, Images], Routed]:
    """Compute both answers for every input and choose by the gate: static shapes, for any transformation.

    Args:
      defence: what to run.
      decide: another rule than `defence.gate`, such as `gates.together`.
    Returns:
      (key, x) -> Routed; `key` is one key or one per example.
    """

    def answer(key: Keys, x: Images) -> Routed:
        plain = defence.logits_fn(x)
        through = defence.logits_fn(translated(defence.translate, key, x))
        routed = (decide or defence.gate)(x)
        return Routed(jnp.where(routed[:, None], through, plain), routed, plain, through)

    return answer


def translated(translate: Translate, key: Keys, x: Images) -> Images:
    """Translate, one key per example, and cut to [0, 1]."""
    return jnp.clip(translate(keys_for(key, x.shape[0]), x), 0.0, 1.0)


def gathered(
    defence: Defence, *, decide: Decide | None = None
) -> Callable[[PRNGKeyArray, Any], tuple[np.ndarray, np.ndarray]]:
    """Translate only what is routed, on the host: cheaper where little is, and f itself where nothing is.

    Inputs that are not routed get the very bits that `jax.jit(in_float32(f))` gives the same batch; inside one
    program with the translator sums may be taken in another order. Routed ones are padded to the batch, so that
    each batch size compiles once.

    Returns:
      (key, x) -> (logits, routed) in numpy.
    """
    plain, rule = jax.jit(in_float32(defence.logits_fn)), decide or defence.gate

    @jax.jit
    @in_float32
    def chosen(x: Images) -> Mask:
        return rule(x)

    @jax.jit
    @in_float32
    def through(keys: Keys, x: Images) -> Logits:
        return defence.logits_fn(jnp.clip(defence.translate(keys, x), 0.0, 1.0))

    def answer(key: Keys, x: Any) -> tuple[np.ndarray, np.ndarray]:
        x = jnp.asarray(x)
        logits, routed = np.array(plain(x)), np.asarray(chosen(x))
        rows = np.flatnonzero(routed)
        if rows.size:
            filled = np.concatenate([rows, np.full(len(routed) - rows.size, rows[0])])
            logits[rows] = np.asarray(through(keys_for(key, len(routed))[filled], x[filled]))[: rows.size]
        return logits, routed

    return answer


def predictions(
    answer: Callable[[Keys, Images], Routed], key: Keys, x: Images, *, draws: int
) -> Int[Array, "r b"]:
    """Submit every input several times to a randomised defence: the predicted classes.

    Draw r sees each example's key folded with r.
    """
    keys = keys_for(key, x.shape[0])
    return jax.lax.map(lambda r: answer(fold(keys, r), x).logits.argmax(axis=-1), jnp.arange(draws))


def any_wrong(predicted: Int[Array, "r b"], y: Labels) -> Mask:
    """Say where one of several submissions is misclassified, which is enough for an adversary who may retry."""
    return (predicted != y[None]).any(axis=0)


def majority(predicted: Int[Array, "r b"], classes: int) -> Labels:
    """Take the class that most draws vote for, the lowest of equals."""
    return jax.nn.one_hot(predicted, classes).sum(axis=0).argmax(axis=-1)


def route_table(
    label: ArrayLike, plain: ArrayLike, through: ArrayLike, routed: ArrayLike
) -> dict[str, float]:
    """Split the accuracy by route: acc = (1 - r) acc(f, not routed) + r acc(f after T, routed).

    Args:
      label: (n,).
      plain, through: logits of f(x) and f(T(x)), (n, k).
      routed: (n,), which inputs were translated.
    Returns:
      n, accuracy (of F), routed (r), accuracy_plain_route and accuracy_translated_route (NaN on an empty route), and
      accuracy_plain and accuracy_translated of all inputs, as if there were no gate. A NaN logit is an error.
    Raises:
      ValueError: if lengths differ or nothing is given.
    """
    y, r = np.asarray(label), np.asarray(routed).astype(bool)
    rights = []
    for logits in (np.asarray(plain), np.asarray(through)):
        if logits.ndim != 2 or y.size == 0 or logits.shape[:1] != y.shape or r.shape != y.shape:
            raise ValueError(
                f"route_table: label is {y.shape}, logits {logits.shape} and routed {r.shape}, must lead with one n"
            )
        rights.append((logits.argmax(axis=1) == y) & ~np.isnan(logits).any(axis=1))
    f, t = rights
    return {
        "n": float(y.size),
        "accuracy": float(np.where(r, t, f).mean()),
        "routed": float(r.mean()),
        "accuracy_plain_route": float(f[~r].mean()) if not r.all() else float("nan"),
        "accuracy_translated_route": float(t[r].mean()) if r.any() else float("nan"),
        "accuracy_plain": float(f.mean()),
        "accuracy_translated": float(t.mean()),
    }
