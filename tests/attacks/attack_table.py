"""Every attack that the library makes, as a table for contract tests: short settings, and what each promises."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from robustjax import attacks
from robustjax.attacks import against, as_attack, autoattack, objectives
from robustjax.attacks.starts import at_origin, halfway
from robustjax.losses import fast
from robustjax.threats import Threat
from robustjax.types import Attack

B, SHAPE, D = 4, (2, 3, 2), 12
RNG = np.random.default_rng(0)
W = jnp.asarray(RNG.normal(size=(D, 2)), jnp.float32)
X = jnp.asarray(RNG.uniform(size=(B, *SHAPE)), jnp.float32)
KEY = jax.random.key(0)
ALL = ("linf", "l2", "l1")


def net(x):
    """Two classes, linear: an attack can succeed where gap < eps |w|_dual, and nowhere else."""
    return x.reshape(len(x), -1) @ W.astype(x.dtype)


Y = jnp.asarray(net(X).argmax(axis=1), jnp.int32)


class Line(NamedTuple):
    """One attack.

    In l0 it succeeds from the fewest pixels on that do, unless it never needs to (`reach` inf).

    Attributes:
      build: from a threat to an attack.
      norms: that it works in.
      reach: multiple of the smallest distance from which on it succeeds on a linear network without a box; in l1,
        where steps move few features, at least 3.
      worse: whether it may end worse than it began: it keeps its last point, or the nearest misclassified one.
      slow: whether its tests take more than some two seconds.
    """

    build: Callable[[Threat], Attack]
    norms: tuple[str, ...] = ALL
    reach: float = 1.1
    worse: bool = False
    slow: bool = False


def ball(kind: str, eps: float) -> Threat:
    """Make a threat of about this size: in l0, two pixels of six."""
    return Threat(kind, 2 if kind == "l0" else eps)


def _pgd(t: Threat, **settings):
    return attacks.pgd(t, **({"steps": 12, "step_size": 0.4 * t.eps} | settings))


def _flat(x):
    """Features whose distance is that of the points in l2."""
    return x.reshape(len(x), -1)


def _refined(t: Threat) -> Attack:
    then = lambda start: as_attack(attacks.apgd(t, steps=10, start=start))
    return attacks.refined(against(attacks.fgsm(t)), then)


LINES = {
    "pgd": Line(lambda t: against(_pgd(t))),
    "pgd, momentum": Line(lambda t: against(_pgd(t, momentum=0.75), objectives.cross_entropy), ("l2",)),
    "pgd, last": Line(lambda t: against(_pgd(t, keep="last"), objectives.dlr), ("linf",), worse=True),
    "fgsm": Line(lambda t: against(attacks.fgsm(t)), ("linf", "l2"), worse=True),
    "fgsm_rs": Line(lambda t: against(fast.fgsm_rs(t)), ("linf",), 1.8, True),
    "pgd_solver": Line(lambda t: as_attack(attacks.pgd_solver(t, steps=12, step_size=0.4 * t.eps)), ("linf", "l2")),
    "monotone": Line(lambda t: as_attack(attacks.monotone(t, steps=12, step_size=0.4 * t.eps)), ("l2",)),
    "annealed_pgd": Line(lambda t: as_attack(attacks.annealed_pgd(t, steps=15)), ("linf", "l2"), slow=True),
    "pma": Line(lambda t: autoattack.worst_case((attacks.pma(t, steps=20),)), ("linf",), slow=True),
    "apgd": Line(lambda t: as_attack(attacks.apgd(t, steps=15))),
    "apgd_shrinking": Line(lambda t: as_attack(attacks.apgd_shrinking(t, steps=20)), ("l1", "l2")),
    "square": Line(lambda t: as_attack(attacks.square(t, queries=60)), reach=4.0),
    "spsa": Line(lambda t: as_attack(attacks.spsa(t, steps=20, samples=8, step_size=0.1)), ("linf", "l2"), 4.0),
    "nes": Line(lambda t: as_attack(attacks.nes(t, steps=20, samples=8, step_size=0.1)), ("l2",), 4.0, slow=True),
    "zoo": Line(lambda t: as_attack(attacks.zoo(t, steps=40, coordinates=4, step_size=0.2)), ("linf", "l2"), 4.0),
    "simba": Line(lambda t: as_attack(attacks.simba(t, queries=100, step_size=0.4)), ("linf", "l2"), 4.0),
    "hop_skip_jump": Line(
        lambda t: as_attack(attacks.hop_skip_jump(t, queries=400)), ("linf", "l2"), 1.3, True, True
    ),
    "boundary_attack": Line(
        lambda t: as_attack(attacks.boundary_attack(t, queries=1000)), ("l2",), worse=True, slow=True
    ),
    "rays": Line(lambda t: as_attack(attacks.rays(t, queries=300)), ("linf",), worse=True),
    "sign_opt": Line(lambda t: as_attack(attacks.sign_opt(t, queries=1000)), ("l2",), worse=True, slow=True),
    "geoda": Line(lambda t: as_attack(attacks.geoda(t, queries=1000)), ("linf", "l2"), worse=True, slow=True),
    "grid": Line(lambda t: _on_vectors(as_attack(attacks.grid(t, counts=(2,) * 6 + (1,) * 6))), ("linf",), 9.0),
    "perceptual_pgd": Line(
        lambda t: as_attack(attacks.perceptual_pgd(attacks.Perceptual(_flat, t.eps, t.lower, t.upper), steps=8)),
        ("l2",),
    ),
    "fab": Line(lambda t: attacks.fab(t, steps=10), worse=True),
    "fab, from elsewhere": Line(lambda t: attacks.fab(t, steps=10, start=halfway(t)), ("linf",), worse=True),
    "fab_targeted": Line(lambda t: attacks.fab_targeted(t, steps=10), ("linf", "l2"), worse=True),
    "boundary": Line(lambda t: against(attacks.boundary(t, steps=10)), ("l2",), worse=True),
    "deepfool": Line(lambda t: as_attack(attacks.deepfool(t, steps=5)), worse=True),
    "super_deepfool": Line(lambda t: as_attack(attacks.super_deepfool(t, steps=15)), ("l2",), worse=True, slow=True),
    "ddn": Line(lambda t: as_attack(attacks.ddn(t, steps=60)), ("l2",), worse=True),
    "fmn": Line(lambda t: against(attacks.fmn(t, steps=60)), worse=True),
    "carlini_wagner": Line(
        lambda t: as_attack(attacks.carlini_wagner(t, searches=6, steps=40, step_size=0.05)), ("l2",), 9.0, True
    ),
    "pgd, l0": Line(lambda t: against(attacks.pgd(t, steps=12, step_size=8.0)), ("l0",)),
    "fmn, l0": Line(lambda t: against(attacks.fmn(t, steps=40)), ("l0",), worse=True),
    "sigma_zero": Line(lambda t: as_attack(attacks.sigma_zero(t, steps=100)), ("l0",), worse=True),
    "vfga": Line(lambda t: as_attack(attacks.vfga(t, steps=6)), ("l0",)),
    "sparse_rs": Line(lambda t: as_attack(attacks.sparse_rs(t, queries=400)), ("l0",), worse=True),
    "sparse_rs_patch": Line(lambda t: as_attack(attacks.sparse_rs_patch(t, queries=60)), ("l0",), np.inf, True),
    "restarts": Line(lambda t: against(attacks.restarts(_pgd(t), 2)), ("l2",)),
    "until_found": Line(lambda t: as_attack(attacks.until_found(attacks.apgd(t, steps=15))), ("linf",)),
    "first_steps": Line(lambda t: against(attacks.first_steps(attacks.apgd(t, steps=25), 15)), ("l2",)),
    "over_targets": Line(lambda t: attacks.over_targets(_pgd(t, start=at_origin)), ("linf",)),
    "worst_of": Line(lambda t: attacks.worst_of(against(attacks.fgsm(t)), against(_pgd(t))), ("l2",)),
    "transferred": Line(lambda t: attacks.transferred(against(attacks.fgsm(t)), net), ("linf",), worse=True),
    "momentum_iterative": Line(
        lambda t: as_attack(attacks.momentum_iterative(t, steps=12, neighbours=2, look_ahead=True)),
        ("linf", "l2"),
        worse=True,
    ),
    "refined": Line(_refined, ("l2",), worse=True),
    "worst_case": Line(
        lambda t: autoattack.worst_case((autoattack.apgd_targeted(t, classes=2, steps=15),)), ("linf",)
    ),
}  # fmt: skip


def _on_vectors(attack: Attack) -> Attack:
    def flat(key, logits_fn, x, y):
        if isinstance(x, list):
            return attack(key, logits_fn, x, y)
        found = attack(key, lambda z: logits_fn(z.reshape(-1, *x.shape[1:])), x.reshape(len(x), -1), y)
        return found._replace(x=found.x.reshape(x.shape))

    return flat
