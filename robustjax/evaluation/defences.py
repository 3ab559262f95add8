"""A defence behind a gate and a translator as a system under attack: its searches, and what it answers."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from robustjax import logit
from robustjax.attacks import gated_objectives, masking_checks
from robustjax.attacks.adaptive import averaged, substituted
from robustjax.attacks.case import Case, Rows
from robustjax.attacks.flags import Flag
from robustjax.attacks.gated_objectives import AttackedDefence, AttackParameters, Target
from robustjax.attacks.solver import Solver, ValueAndMerit
from robustjax.data.subsets import batch_subset
from robustjax.numerics import in_float32, keys_for
from robustjax.ood.translate import Defence
from robustjax.threats import Threat
from robustjax.types import Batch, Images, Keys

SEGMENT = 10  # iterations between two widths of the soft gate


class Systems(NamedTuple):
    """The defence under evaluation, and the one from which attacks of kind TM4 transfer: they see it alone."""

    defence: Defence
    source: Defence


class Known(NamedTuple):
    """What is known of an example; on the host for all of them, on the device for a batch.

    Attributes:
      label: (b,) its class.
      likeliest: (b, k - 1) wrong classes by falling logit of f.
      matched: (b, m) classes of the benign images with the nearest features; m is 0 where none are matched.
      features: (b, m, d) their features.
    """

    label: Any
    likeliest: Any
    matched: Any
    features: tuple[Any, ...] = ()


class GatedParameters(NamedTuple):
    """Parameters of a run: settings of the surrogate, the rank of its target, its place in the attack."""

    settings: AttackParameters
    rank: Any
    place: Any


def attacked(
    defence: Defence, keys: Keys, *, slope: str, samples: int | None, chunk_size: int | None = None
) -> AttackedDefence:
    """Look at a defence as an attacker: a fixed draw or the mean of several, true slopes or those of the identity.

    Memory is that of `chunk_size` draws at a time, by default of all of them.
    """

    def translate(keys: Keys, x: Images) -> Images:
        return jnp.clip(defence.translate(keys, x), 0.0, 1.0)

    def stochastic(keys: Keys, x: Images) -> Array:
        z = translate(keys, x) if slope == "exact" else substituted(partial(translate, keys))(x)
        return defence.logits_fn(z)

    def drawn(noise: Keys, x: Images) -> Array:
        # An image's draws hang on its own key and its bits, not on who shares its batch.
        own = jax.vmap(lambda key, other: jax.random.fold_in(key, jax.random.bits(other)))(keys, noise)
        return stochastic(own, x)

    through = partial(stochastic, keys)
    if samples is not None:
        through = averaged(
            drawn, jax.random.key(0), samples=samples, chunk_size=chunk_size, of=jax.nn.log_softmax
        )
    return AttackedDefence(defence.logits_fn, through, defence.gate.gap, defence.features)


def as_argument(defence: Defence) -> Defence:
    """Make every function of a defence a pytree, so that it can be passed to compiled functions."""

    def passable(function: Any) -> Any:
        return function if isinstance(function, jax.tree_util.Partial) else jax.tree_util.Partial(function)

    gate = defence.gate._replace(score=passable(defence.gate.score))
    parts = passable(defence.logits_fn), passable(defence.translate), gate
    return Defence(*parts, tuple(passable(one) for one in defence.features))


@dataclasses.dataclass(frozen=True)
class GatedProgram:
    """What decides which program a search is; equal ones share what is compiled.

    See `gated_cases.GatedCase` for the fields; everything else may change without compiling anew.
    """

    surrogate: gated_objectives.Surrogate
    search: Callable[[Threat, int], Solver]
    steps: int
    slope: str
    anneal: float
    samples: int | None
    from_source: bool
    transfer: bool
    black_box: bool
    chunk_size: int | None = None

    def __call__(self, threat: Threat) -> Case:
        """Build the case, without its parameters."""
        solver = self.search(threat, self.steps)

        def objective(systems: Systems, rows: Rows) -> ValueAndMerit:
            defence = systems.source if self.from_source else systems.defence
            seen = attacked(
                defence, rows.key, slope=self.slope, samples=self.samples, chunk_size=self.chunk_size
            )
            # From soft to hard: the last segment has the width that was asked for.
            late = jnp.minimum((rows.step // SEGMENT + 1) * SEGMENT / solver.length, 1.0)
            its = rows.parameters.settings
            its = its._replace(losses=its.losses.T, warmth=its.warmth * self.anneal ** (1.0 - late))
            return self.surrogate(seen, rows.data.label, self._target(rows), its)

        def start(keys: Keys, rows: Rows, x: Array) -> Any:
            del keys
            return solver.init(jax.vmap(jax.random.fold_in)(rows.key, rows.parameters.place + 1), x)

        return Case(
            self.surrogate.__name__,
            solver,
            objective,
            start=start,
            passes=1 if self.black_box else 2,
            transfer=self.transfer,
            black_box=self.black_box,
        )

    def _target(self, rows: Rows) -> Target:
        """Pick the class of the run's rank, and for matching the benign image of that rank."""
        matching = self.surrogate is gated_objectives.matched
        classes = rows.data.matched if matching else rows.data.likeliest
        rank = jnp.minimum(rows.parameters.rank, classes.shape[1] - 1)
        target = jnp.take_along_axis(classes, rank[:, None], axis=1)[:, 0]
        if not matching:
            return Target(target)
        nearest = (jnp.take_along_axis(a, rank[:, None, None], axis=1)[:, 0] for a in rows.data.features)
        return Target(target, tuple(nearest))


class GatedAnswers(NamedTuple):
    """What the hard defence says of points: both logits, the gap of the gate, margin and merit."""

    samples: int | None  # draws of a random translator to average
    chunk_size: int | None = None  # of them at a time

    def __call__(self, systems: Systems, keys: Keys, known: Known, x: Array) -> dict[str, Array]:
        """Run the defence on a batch."""
        parts = attacked(
            systems.defence, keys, slope="exact", samples=self.samples, chunk_size=self.chunk_size
        )
        plain, through, gap = parts.plain(x), parts.through(x), parts.gap(x)
        hard = jnp.where((gap <= 0)[:, None], plain, through)
        wrong = hard.argmax(axis=1) != known.label
        # The class itself decides: a tie that argmax decides for the label is no success.
        value = gated_objectives.merit(plain, through, gap, known.label)
        merit = jnp.where(wrong, jnp.maximum(value, 1e-30), jnp.minimum(value, 0.0))
        margin = logit.margin(hard, known.label)
        return {"plain": plain, "through": through, "gap": gap, "margin": margin, "merit": merit}


def one_by_one(defence: Defence, images: Any, *, key: Any = None, samples: int | None = None) -> np.ndarray:
    """Compute f(T(x)) for images, each in a batch of its own, with the draws that `purifier.evaluate` gives them."""
    keys = keys_for(jax.random.key(0) if key is None else key, len(images))

    @jax.jit
    @in_float32
    def one(defence: Defence, keys: Any, x: Any) -> Any:
        return attacked(defence, keys, slope="exact", samples=samples).through(x)

    x, given = jnp.asarray(images), as_argument(defence)
    return np.concatenate([np.asarray(one(given, keys[i : i + 1], x[i : i + 1])) for i in range(len(x))])


def gradient_checks(defence: Defence, test: Batch, eps: float) -> tuple[Flag, ...]:
    """Look for masked gradients of f after T, on 64 images; fewer would say little."""
    if len(test.label) < 64:
        return ()
    few = batch_subset(test, 64)
    return masking_checks.checks(
        jax.random.key(3), jax.tree_util.Partial(_through, defence.logits_fn, defence.translate), few.image,
        few.label, Threat("linf", eps), steps=20, draws=20,
    )  # fmt: skip


def _through(f: Any, translate: Any, x: Any) -> Any:
    keys = jax.random.split(jax.random.key(0), len(x))
    return f(jnp.clip(translate(keys, x), 0.0, 1.0))
