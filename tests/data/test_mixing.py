"""Mixed images: every pixel is accounted for by the share, which labels follow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from robustjax.data import mixing
from robustjax.types import Batch

KEY = jax.random.key(0)
BLACK, WHITE = jnp.zeros((200, 6, 9, 2)), jnp.ones((200, 6, 9, 2))


def test_a_blend_of_black_and_white_is_grey_of_the_share():
    x, share = mixing.blended()(KEY, BLACK, WHITE)
    np.testing.assert_allclose(
        x, np.broadcast_to(1 - np.asarray(share)[:, None, None, None], x.shape), atol=1e-6
    )
    assert stats.kstest(np.asarray(share), "uniform").pvalue > 0.01  # Beta(1, 1)
    small = np.asarray(mixing.blended(alpha=0.3)(KEY, BLACK, WHITE)[1])
    assert stats.kstest(small, stats.beta(0.3, 0.3).cdf).pvalue > 0.01


def test_a_pasted_window_is_a_rectangle_and_the_share_counts_its_pixels():
    x, share = (np.asarray(a) for a in mixing.pasted()(KEY, BLACK, WHITE))
    window = x[..., 0] == 1
    np.testing.assert_array_equal(x[..., 0], x[..., 1])
    np.testing.assert_allclose(share, 1 - window.mean(axis=(1, 2)), atol=1e-6)
    for one in window:
        rows, columns = np.flatnonzero(one.any(axis=1)), np.flatnonzero(one.any(axis=0))
        assert one.sum() == len(rows) * len(columns)
        assert all(len(at) == 0 or np.ptp(at) == len(at) - 1 for at in (rows, columns))
    # The mean over all shares and centres, each on its own: sides are floor(length sqrt(1 - share)).
    sides = np.sqrt((np.arange(2000) + 0.5) / 2000)

    def covered(n):
        size = np.floor(sides * n).astype(int)[:, None, None]
        first = np.arange(n)[None, :, None] - size // 2
        at = np.arange(n)[None, None]
        return ((at >= first) & (at < first + size)).mean(axis=(1, 2))

    counts = window.mean(axis=(1, 2))
    want = (covered(6) * covered(9)).mean()
    assert abs(counts.mean() - want) < 4 * counts.std() / np.sqrt(len(counts))


def test_labels_follow_the_shares_and_neighbours_meet_each_other():
    image = jnp.arange(4.0).reshape(4, 1, 1, 1) / 4

    def fixed(key, x, other):
        return 0.75 * x + 0.25 * other, jnp.full(len(x), 0.75)

    mixed = mixing.with_neighbours(KEY, Batch(image, jnp.asarray([2, 0, 1, 1])), fixed, classes=3)
    np.testing.assert_allclose(np.asarray(mixed.image).ravel(), [0.0625, 0.1875, 0.5625, 0.6875])
    np.testing.assert_allclose(mixed.label, [[0.25, 0, 0.75], [0.75, 0, 0.25], [0, 1, 0], [0, 1, 0]])


@pytest.mark.parametrize("mixer", [mixing.blended(), mixing.pasted()])
def test_an_image_is_mixed_alike_in_any_batch(mixer):
    keys = jax.random.split(KEY, 5)
    x, other = (jnp.asarray(np.random.default_rng(i).uniform(size=(5, 4, 4, 1)), jnp.float32) for i in (0, 1))
    together, alone = mixer(keys, x, other), mixer(keys[3:4], x[3:4], other[3:4])
    np.testing.assert_allclose(together[0][3], alone[0][0], atol=1e-6)
    np.testing.assert_allclose(together[1][3], alone[1][0], atol=1e-6)


def test_what_cannot_be_mixed_is_refused():
    with pytest.raises(ValueError, match="has 3 images, must have an even number"):
        odd = Batch(BLACK[:3], jnp.zeros(3, jnp.int32))
        mixing.with_neighbours(KEY, odd, mixing.blended(), classes=2)
    with pytest.raises(ValueError, match="alpha is 0, must be above 0"):
        mixing.pasted(alpha=0)
    with pytest.raises(ValueError, match="must be equal"):
        mixing.blended()(KEY, BLACK, WHITE[:3])
    with pytest.raises(ValueError, match="classes is 1, must be a whole number"):
        mixing.soft(jnp.zeros(3, jnp.int32), 1)
