"""A gate that decides for ten images at once, beside the same gate image by image."""

import jax.numpy as jnp

from robustjax.evaluation import translation
from robustjax.ood.gates import Gate
from robustjax.ood.translate import Defence
from robustjax.types import Batch


def test_one_attacked_image_among_nine_clean_ones_goes_where_they_go():
    """f reads a pixel, T inverts it, and the score is the pixel: all of it can be counted by hand."""

    def f(x):
        return jnp.stack([0.5 - x[:, 0, 0, 0], x[:, 0, 0, 0] - 0.5], axis=1)

    gate = Gate(lambda x: -x[:, 0, 0, 0], jnp.float32(-0.5))
    test = Batch(jnp.full((20, 2, 2, 1), 0.2), jnp.zeros(20, jnp.int32))
    rows = translation.grouped_rows(
        Defence(f, lambda keys, x: 1.0 - x, gate), test, {"odd": 0.9 + 0 * test.image}, 0.1
    )
    alone, tens, mixed = rows[0], rows[2], rows[3]
    assert alone["routed %, each alone"] == alone["routed %, by tens"] == "0.0"
    assert tens["routed %, each alone"] == tens["routed %, by tens"] == "100.0"
    assert mixed["routed %, each alone"] == "100.0" and mixed["routed %, by tens"] == "0.0"
    assert mixed["defence %, each alone"][:5] == "100.0" and mixed["defence %, by tens"][:3] == "0.0"
