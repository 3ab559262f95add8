"""Plain training of a translator: its output for a perturbed image should be the clean one."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import PRNGKeyArray, Scalar

from robustjax import checks
from robustjax.perturbations.pairs import ImagePair
from robustjax.types import Images, Loss, Model, Params, State

Compare = Callable[[Images, Images], Scalar]  # (translated, clean) -> loss


def squares(made: Images, clean: Images) -> Scalar:
    """Average the squared differences of pixels."""
    return jnp.square(made - clean).mean()


def restoring(translator: Model, compare: Compare = squares) -> Loss:
    """Minimise the difference between translated and clean images.

    Args:
      translator: what is trained.
      compare: the difference, such as `squares`, `pix2pix.l1()` or `pix2pix.by_features(...)`, for a guided one.
    Returns:
      A loss over `ImagePair`; metric `error`, the mean absolute difference of pixels.

    Reference: Vincent et al. 2008 (denoising autoencoders); guided by a classifier, Liao et al. 2018, arXiv:1712.02976.
    """

    def loss(params: Params, state: State, batch: ImagePair, key: PRNGKeyArray):
        checks.image_pair("restoring", *batch)
        made, state = translator.apply(params, state, batch.perturbed, train=True, key=key)
        return compare(made, batch.image), (state, {"error": jnp.abs(made - batch.image).mean()})

    return loss
