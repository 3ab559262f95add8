"""An ascent for half of a batch, for losses that train on clean and attacked images side by side."""

import jax
from jaxtyping import Array

from robustjax.numerics import keys_for, pack, unpack
from robustjax.types import Ascent, Found, Keys, Objective


def half_batch(ascent: Ascent) -> Ascent:
    """Leave the rows 0, 2, 4, ... where they are and move the rows 1, 3, 5, ..., at half the cost.

    The objective must treat each row alone and know nothing of its place in the batch, as those on OOD images do;
    one that holds labels must be halved with them.

    Args:
      ascent: moves the odd rows; each sees the key it has in the whole batch.

    Returns:
      An ascent over batches of even size.

    Reference: half of each batch of OOD images is attacked in Chen et al. 2021, arXiv:2006.15207, the first half
      there; taking every other row moves none between devices.
    """

    def ascend(key: Keys, objective: Objective, x: Array) -> Found:
        stay, move = unpack(x)
        _, keys = unpack(keys_for(key, x.shape[0]))
        found = ascent(keys, objective, move)
        return jax.lax.stop_gradient(Found(pack(stay, found.x), pack(objective(stay), found.value)))

    return ascend
