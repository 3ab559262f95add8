"""Scores of features by the training images near them, weighed by what the network says of both."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from robustjax import checks, logit
from robustjax.numerics import divide, norm
from robustjax.ood.scores import Features
from robustjax.types import Number, PerExample


@partial(jax.tree_util.register_dataclass, data_fields=["kernel", "bias", "bank"], meta_fields=["neighbours"])
@dataclasses.dataclass(frozen=True, eq=False)  # by identity: arrays have no hash, and jit asks for one
class Guided:
    """A last layer, and unit training features times their energy: a form of features."""

    kernel: Float[Array, "d k"]
    bias: Float[Array, "k"]
    bank: Float[Array, "n d"]
    neighbours: int

    def __call__(self, features: Features) -> PerExample:
        """Multiply the energy by the mean inner product with the nearest of the bank."""
        alike = jnp.matmul(_unit(features), self.bank.T, precision="highest")
        guidance = jax.lax.top_k(alike, self.neighbours)[0].mean(axis=1)
        return guidance * logit.energy(features @ self.kernel + self.bias[None])


def nnguide(features: np.ndarray, kernel: np.ndarray, bias: np.ndarray, *, neighbours: int = 100) -> Guided:
    """Score by energy times guidance: the mean of the k largest E(h_i) cos(h, h_i) over training features h_i.

    Args:
      features: of training data (n, d).
      kernel, bias: of the last layer.
      neighbours: k, in [1, n].
    Raises:
      ValueError: if shapes do not fit, a value is not finite, or neighbours is out of range.

    Reference: Park, Jung and Teoh 2023, arXiv:2309.14888, k = 100 as in OpenOOD, which keeps 1 % of the training
      images; here all that are given.
    """
    found = checks.rows("nnguide", "features", features)
    checks.count("nnguide", "neighbours", neighbours, most=len(found))
    w, b = checks.last_layer("nnguide", found.shape[1], kernel, bias)
    logits = found @ w + b
    top = logits.max(axis=1, keepdims=True)
    energy = top + np.log(np.exp(logits - top).sum(axis=1, keepdims=True))
    bank = found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12) * energy
    kept, offset, rows = (jnp.asarray(a, jnp.float32) for a in (w, b, bank))
    return Guided(kept, offset, rows, neighbours)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)  # by identity: arrays have no hash, and jit asks for one
class Related:
    """A last layer, unit training features and their predictions: a form of features."""

    kernel: Float[Array, "d k"]
    bias: Float[Array, "k"]
    bank: Float[Array, "n d"]
    prediction: Float[Array, "n k"]
    power: Float[Array, ""]
    cut: Float[Array, ""]

    def __call__(self, features: Features) -> PerExample:
        """Sum the relations to the bank that are not small."""
        p = jax.nn.softmax(features @ self.kernel + self.bias[None])
        alike = jnp.maximum(jnp.matmul(_unit(features), self.bank.T, precision="highest"), 0.0)
        relation = alike * jnp.matmul(p, self.prediction.T, precision="highest")
        kept = relation > self.cut
        return jnp.where(kept, jnp.where(kept, relation, 1.0) ** self.power, 0.0).sum(axis=1)


def relation(
    features: np.ndarray, kernel: np.ndarray, bias: np.ndarray, *, power: Number = 1.0, cut: Number = 0.03
) -> Related:
    """Score by sum_i r_i^power over training images with r_i > cut, r_i = max(0, cos(h, h_i)) p . p_i.

    An image without any relation has the score 0 and no slope: an attack needs a surrogate there, such as
    `logit_scores.msp_margin`.

    Args:
      features: of training data (n, d).
      kernel, bias: of the last layer.
      power: above 0.
      cut: relations up to this do not count; at least 0.
    Raises:
      ValueError: if shapes do not fit, a value is not finite, or a setting is out of range.

    Reference: Kim et al. 2023, Neural Relation Graph, arXiv:2301.12321; the cut is that of the published code, and
      power 1 that of OpenOOD, which chooses it on validation images.
    """
    checks.number("relation", "power", power, above=0)
    checks.number("relation", "cut", cut, least=0)
    found = checks.rows("relation", "features", features)
    w, b = checks.last_layer("relation", found.shape[1], kernel, bias)
    logits = found @ w + b
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    bank = found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)
    made = (w, b, bank, p / p.sum(axis=1, keepdims=True), power, cut)
    return Related(*(jnp.asarray(a, jnp.float32) for a in made))


def _unit(features: Features) -> Features:
    return divide(features, norm(features, "l2")[:, None])
