"""Any loss on mixed images with soft labels."""

import jax
from jaxtyping import PRNGKeyArray

from robustjax.data.mixing import Mixer, with_neighbours
from robustjax.types import Batch, Loss, Params, State

_MIXING = 0x6D6978  # what the key is folded with, so that the loss draws as it does without


def on_mixed_images(loss: Loss, mixer: Mixer, *, classes: int) -> Loss:
    """Take a loss on each image mixed with its neighbour in the batch.

    An attack inside the loss perturbs the mixed image and climbs the cross-entropy of its soft label.

    Args:
      loss: over a `Batch` with soft labels (b, classes), such as `standard`, `adversarial` and `trades`.
      mixer: `data.mixing.pasted()` for CutMix or `blended()` for MixUp.
      classes: how many there are.
    Returns:
      A loss over a `Batch` of even size; its metrics are those of the loss, accuracy that of the likelier label.

    Reference: for adversarial training Rebuffi et al. 2021, arXiv:2103.01946: CutMix helps, with averaged weights.
    """

    def on_mixed(params: Params, state: State, batch: Batch, key: PRNGKeyArray):
        both = with_neighbours(jax.random.fold_in(key, _MIXING), batch, mixer, classes=classes)
        return loss(params, state, both, key)

    return on_mixed
