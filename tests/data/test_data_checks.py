"""What `validate` lets through, and what it says about the rest."""

import jax.numpy as jnp
import numpy as np
import pytest

from robustjax.data.checks import validate

GOOD = np.random.default_rng(0).random((5, 4, 4, 3)).astype(np.float32)
LABEL = np.arange(5, dtype=np.int32)


@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray])
def test_good_arrays_pass(kind):
    batch = validate(kind(GOOD), kind(LABEL), 5)
    np.testing.assert_array_equal(batch.image, GOOD)
    np.testing.assert_array_equal(batch.label, LABEL)


def spoiled(value):
    image = GOOD.copy()
    image[2, 1, 1, 1] = value
    return image


@pytest.mark.parametrize(
    ("image", "label", "words"),
    [
        ((GOOD * 255).astype(np.uint8), LABEL, r"uint8, must be float32 in \[0, 1\]; convert"),
        (GOOD.astype(np.float64), LABEL, "float64, must be float32"),
        (GOOD * 255, LABEL, r"lie in \[.*must be in \[0, 1\]; divide by 255"),
        (GOOD * 2 - 1, LABEL, r"lie in \[-.*must be in \[0, 1\]$"),
        (spoiled(np.nan), LABEL, "1 images hold NaN"),
        (spoiled(np.inf), LABEL, "1 images hold NaN or infinity"),
        (GOOD[0], LABEL, r"\[4, 4, 3\], must be \[b h w c\]"),
        (GOOD.transpose(0, 3, 1, 2), LABEL, "1 or 3 channels"),
        (GOOD[:0], LABEL[:0], "no images"),
        (GOOD, LABEL[:4], "one for each"),
        (GOOD, LABEL.astype(np.int64), "int64, must be int32"),
        (GOOD, LABEL - 1, "from -1 to 3"),
        (GOOD, LABEL + 1, "from 1 to 5, must be in 0..4"),
    ],
)
def test_bad_arrays_are_named_in_one_line(image, label, words):
    with pytest.raises(ValueError, match=words) as raised:
        validate(image, label, 5)
    assert "\n" not in str(raised.value)
