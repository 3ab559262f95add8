"""CCU: a network mixed with the uniform prediction by how likely an image is as an ID image, provably unsure far away.

The mixtures join the network's parameters and the posterior its logits, so that everything that attacks, scores
or certifies a model does so with the whole of CCU and not with the network inside:

    axes = gaussian_mixture.principal(id_images)
    inside, outside = (gaussian_mixture.fitted(key, axes, x) for x in (id_images, ood_images))
    ccu_model = ccu.mixed(model, axes, inside, outside)
    loss, tx = ccu.ccu(ccu_model, axes), ccu.optimizer(sgd)
    state = training.start(key, ccu_model, tx)               # state.params is Parts(network, inside, outside)

Reference: Meinke and Hein 2020, arXiv:1909.12180.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PRNGKeyArray

from robustjax import checks, logit, numerics
from robustjax.losses.gaussian_mixture import Axes, Mixture, log_density, widened
from robustjax.types import Loss, Model, Number, Pair, Params, State


class Parts(NamedTuple):
    """The network's parameters and the densities of ID and OOD images, trained together."""

    network: Params
    inside: Mixture
    outside: Mixture


def mixed(model: Model, axes: Axes, inside: Mixture, outside: Mixture, *, odds: Number = 1.0) -> Model:
    """Put out log p(y|x), p(y|x) = (p(x|in) p_network(y|x) + odds p(x|out) / K) / (p(x|in) + odds p(x|out)).

    Args:
      model: the network inside; it keeps its `features`.
      axes, inside, outside: the densities as fitted; that of OOD images is widened where need be.
      odds: prior odds of an image being OOD, p(out) / p(in), above 0.

    Raises:
      ValueError: if known odds are not positive.
    """
    checks.number("ccu.mixed", "odds", odds, above=0)

    def init(key: PRNGKeyArray):
        params, state = model.init(key)
        return Parts(params, inside, widened(outside, above=inside)), state

    def apply(params: Parts, state: State, x, *, train: bool = False, key: PRNGKeyArray | None = None):
        logits, state = model.apply(params.network, state, x, train=train, key=key)
        known = log_density(axes, params.inside, x)[:, None]
        strange = log_density(axes, params.outside, x)[:, None] + jnp.log(jnp.asarray(odds, jnp.float32))
        # Both densities run to thousands of nats: only their difference may meet the log-probabilities.
        ratio = known - strange
        log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
        even = -math.log(logits.shape[-1])
        return jnp.logaddexp(jax.nn.log_sigmoid(ratio) + log_p, jax.nn.log_sigmoid(-ratio) + even), state

    def features(params: Parts, state: State, x):
        return model.features(params.network, state, x)

    return Model(init, apply, features)


def ccu(model: Model, axes: Axes, *, ood_prior: Number = 0.5) -> Loss:
    """Minimise p_in (CE(p(y|x), y) - log p(x)) + p_out (CE(U, p(y|z)) - log p(z)): labels and images likely.

    p(x) is the mixture p_in p(x|in) + p_out p(x|out) of the two densities; all cross-entropies are of the
    posterior that the model puts out.

    Args:
      model: made by `mixed`; one forward pass serves ID and OOD images.
      axes: as given to `mixed`.
      ood_prior: p_out, in (0, 1); p_in is the rest.

    Returns:
      A loss over `Parts` and a `Pair`; metrics `risk`, `excess` (CE(U, p(z)) - log K), `evidence` (mean log p over
      data), `ood_evidence`, all in nats, and `accuracy`.

    Raises:
      ValueError: if a known prior is outside (0, 1).

    Reference: Meinke and Hein 2020, arXiv:1909.12180, with batches of 128 ID and 50 OOD images.
    """
    checks.number("ccu", "ood_prior", ood_prior, above=0, below=1)

    def loss(params: Parts, state: State, batch: Pair, key: PRNGKeyArray):
        checks.batch("ccu", batch)
        sizes = (len(batch.id.image), len(batch.ood))
        both = numerics.pack(batch.id.image, batch.ood)
        log_p, state = model.apply(params, state, both, train=True, key=key)
        known, strange = (
            log_density(axes, mixture, both) + jnp.log(jnp.asarray(prior, jnp.float32))
            for mixture, prior in ((params.inside, 1.0 - ood_prior), (params.outside, ood_prior))
        )
        inside, outside = numerics.unpack(log_p, sizes)
        evidence, strangeness = numerics.unpack(jnp.logaddexp(known, strange)[:, None], sizes)
        risk = logit.cross_entropy(inside, batch.id.label).mean()
        uniform = logit.ce_to_uniform(outside).mean()
        evidence, strangeness = evidence.mean(), strangeness.mean()
        value = (1.0 - ood_prior) * (risk - evidence) + ood_prior * (uniform - strangeness)
        metrics = {
            "risk": risk,
            "excess": uniform - math.log(log_p.shape[-1]),
            "evidence": evidence,
            "ood_evidence": strangeness,
            "accuracy": logit.correct(inside, batch.id.label).mean(),
        }
        return value, (state, metrics)

    return loss


def optimizer(
    tx: optax.GradientTransformation, *, learning_rate: Number = 1e-5, factor: float = 4.0
) -> optax.GradientTransformation:
    """Train the network by `tx` and the mixtures by plain steps, keeping the variances of the OOD mixture large.

    Args:
      tx: the network's optimiser.
      learning_rate: of means and log-variances, without weight decay.
      factor: how many times the largest ID variance the variances of OOD images are at least. Above 1, the
        prediction is uniform far from everything.

    Raises:
      ValueError: if a known learning rate is negative or factor is not above 1.
    """
    checks.number("ccu.optimizer", "learning_rate", learning_rate, least=0)
    checks.number("ccu.optimizer", "factor", factor, above=1)

    def init(params: Any):
        return tx.init(params.network)

    def update(updates: Any, state: Any, params: Any = None):
        if params is None:
            raise ValueError("ccu.optimizer: params is None, must be given to update")
        network, state = tx.update(updates.network, state, params.network)
        old = (params.inside, params.outside)
        stepped = jax.tree.map(lambda w, g: w - learning_rate * g, old, (updates.inside, updates.outside))
        new = (stepped[0], widened(stepped[1], above=stepped[0], factor=factor))
        inside, outside = jax.tree.map(jnp.subtract, new, old)
        return Parts(network, inside, outside), state

    return optax.GradientTransformation(init, update)
