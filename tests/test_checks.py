"""What a user brings is checked before any work, and the error says in one line how to mend it."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from robustjax import checks


class OnAnotherDevice:
    """As tensors of PyTorch on a GPU or with a gradient are: NumPy cannot read them."""

    def __array__(self, *args, **kwargs):
        raise TypeError("can't convert it. Use Tensor.cpu() to copy the tensor to host memory first.")


X = np.full((4, 8, 8, 3), 0.5, np.float32)


def flat(x):
    return x.reshape(x.shape[0], -1)[:, :5]


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (X[0], "write x[None]"),
        (X[:0], "must hold at least one"),
        (np.zeros((2, 3, 8, 8), np.float32), "x.transpose(0, 2, 3, 1)"),
        (np.zeros((2, 1, 8, 8), np.float32), "channels first"),
        (255 * X, "divide them by 255"),
        (X - 2, "undo the normalisation"),
        (
            np.where(np.arange(4)[:, None, None, None] == 1, np.nan, X),
            "1 images have pixels that are not finite",
        ),
        (X.astype(int), "must be floats in [0, 1] or bytes"),
        (X > 0, "are bool"),
        (X[..., None], "(4, 8, 8, 3, 1)"),
        (
            OnAnotherDevice(),
            "images are a OnAnotherDevice, must be an array that NumPy can read: can't convert it. Use",
        ),
        ([[0.5], [0.5, 0.5]], "images are a list, must be an array that NumPy can read"),
    ],
)
def test_images_that_cannot_be_meant_are_refused(x, says):
    with pytest.raises(ValueError, match=re.escape(says)) as caught:
        checks.images("evaluate", x)
    assert "\n" not in str(caught.value)


def test_images_come_back_as_floats_in_the_box():
    assert checks.images("f", (255 * X).astype(np.uint8)).max() == np.float32(127) / np.float32(255)
    assert checks.images("f", X.astype(np.float64)).dtype == np.float32
    assert checks.images("f", jnp.asarray(X, jnp.bfloat16)).dtype == np.float32
    assert checks.images("f", X - 2, lower=-2.0, upper=2.0).min() == -1.5
    # Grey images one or three pixels high are not channels first.
    assert checks.images("f", np.zeros((2, 3, 8, 1), np.float32)).shape == (2, 3, 8, 1)


@pytest.mark.parametrize(
    ("y", "says"),
    [
        (np.eye(5)[[0, 1, 2, 3]], "take y.argmax(axis=1)"),
        ([0, 1, 2], "must be (4,), one for each image"),
        ([0, 1, 2, 3.5], "must be whole numbers"),
        ([0, 1, 2, -1], "the smallest label is -1"),
        ([1, 2, 3, 5], "labels from 1 need y - 1"),
        ([0, 2, 3, 7], "must be below the 5 logits"),
        (["a", "b", "c", "d"], "must be whole numbers"),
        ([True, False, True, True], "are bool"),
        ([0, 1, 2, 2**32 + 1], "must be below the 5 logits"),
    ],
)
def test_labels_that_cannot_be_meant_are_refused(y, says):
    with pytest.raises(ValueError, match=re.escape(says)) as caught:
        checks.labels("evaluate", y, count=4, classes=5)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("eps", "norm", "says"),
    [
        (8, "linf", "of radii in bytes take eps / 255"),
        (0.0, "linf", "must be above 0"),
        (np.float32(-0.1), "l2", "must be above 0"),
        (np.nan, "l1", "must be above 0 and finite"),
        ("8/255", "linf", "must be a number such as 8 / 255"),
        (np.full(4, 0.1), "linf", "must be a number"),
        (20.0, "l2", "the width of the box in l2"),
        (0.1, "l0", "norm is 'l0'"),
    ],
)
def test_radii_that_cannot_be_meant_are_refused(eps, norm, says):
    with pytest.raises(ValueError, match=re.escape(says)) as caught:
        checks.radius("evaluate", eps, norm=norm, shape=X.shape[1:])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("network", "says"),
    [
        (3, "must be a function"),
        (lambda x: (flat(x), x), "gives a tuple"),
        (lambda x: flat(x)[:, :1], "of one logit z make [0, z]"),
        (lambda x: flat(x)[0], "must give (3, classes)"),
        (lambda x: x, "must give (3, classes)"),
        (lambda x: np.asarray(x).sum(), "must be written in JAX"),
        (lambda x: x @ jnp.zeros((7, 2)), "network fails on images of shape (3, 8, 8, 3)"),
        (lambda x: {}["w"], "KeyError"),
        (lambda x: flat(x) > 0, "gives bool"),
    ],
)
def test_networks_that_give_no_logits_are_refused(network, says):
    with pytest.raises(ValueError, match=re.escape(says)) as caught:
        checks.logits("evaluate", network, X)
    assert "\n" not in str(caught.value)


def test_a_network_is_asked_for_its_shape_alone():
    assert checks.logits("evaluate", flat, X) == 5


@settings(max_examples=200, deadline=None)
@given(
    arrays.arrays(
        st.sampled_from([np.float32, np.float64, np.uint8, np.int32]),
        arrays.array_shapes(min_dims=1, max_dims=5, max_side=4),
        elements=st.just(0) | st.just(1) | st.just(200),
    )
)
def test_any_array_is_images_in_the_box_or_one_line(x):
    try:
        out = checks.images("f", x)
    except ValueError as error:
        assert "\n" not in str(error) and str(error).startswith("f: ")
    else:
        assert out.dtype == np.float32 and out.shape == x.shape and out.min() >= 0 and out.max() <= 1


@pytest.mark.parametrize(
    ("network", "says"),
    [
        (lambda x: flat(np.asarray(x)), "write jax.numpy"),
        (lambda x: (flat(x), x), "lambda x: network(x)[0]"),
        (lambda x: x.reshape(-1, 192) @ jnp.ones((192, 5)) + x[:, 0, 0, 0].item(), "must be written in JAX"),
    ],
)
def test_a_function_that_fails_is_told_how_to_get_there(network, says):
    with pytest.raises(ValueError, match=re.escape(says)) as caught:
        checks.logits("evaluate", network, X)
    assert "\n" not in str(caught.value)


def test_a_function_of_channels_first_is_recognised():
    def network(x):
        assert x.shape[1] == 3
        return x.sum(axis=(2, 3))

    with pytest.raises(ValueError, match=re.escape("pass lambda x: network(x.transpose(0, 3, 1, 2))")):
        checks.logits("evaluate", network, X)
    assert checks.logits("evaluate", lambda x: network(x.transpose(0, 3, 1, 2)), X) == 3


def test_the_number_of_logits_is_that_of_the_classes():
    assert checks.logits("f", flat, X, classes=5) == 5
    with pytest.raises(ValueError, match="5 logits, must give one for each of 10 classes"):
        checks.logits("f", flat, X, classes=10)


def test_probes_are_spread_over_the_set():
    assert checks.evenly(5).tolist() == [0, 1, 2, 3, 4]
    spread = checks.evenly(1000, 4)
    assert spread.tolist() == [0, 333, 666, 999]
    assert len(checks.evenly(100_000)) == checks.PROBED


IMAGES = np.random.default_rng(0).uniform(size=(20, 8, 8, 3)).astype(np.float32)


def raised(flags):
    return {flag.name for flag in flags if flag.raised}


def test_a_sound_network_raises_no_flag():
    flags = checks.network("f", flat, IMAGES)
    assert len(flags) == 4 and not raised(flags)
    # One image is no reason to speak of constant outputs, nor is one that masks classes.
    masked = lambda x: flat(x).at[:, 2].set(-jnp.inf)
    assert not raised(checks.network("f", flat, IMAGES[:1])) and not raised(
        checks.network("f", masked, IMAGES)
    )


def test_statistics_of_the_batch_are_seen():
    """BatchNorm in train mode: an image's logits depend on the others; of one image or of many."""

    def network(x):
        z = flat(x)
        return (z - z.mean(axis=0, keepdims=True)) / (z.std(axis=0, keepdims=True) + 1e-5)

    for images in (IMAGES, IMAGES[:1], IMAGES[:3]):
        with pytest.raises(
            ValueError, match=r"^f: network gives other logits .* BatchNorm in train mode"
        ) as caught:
            checks.network("f", network, images)
        assert "\n" not in str(caught.value)
    # In evaluation mode, with statistics of its own, it is the same function in every batch.
    assert not raised(checks.network("f", lambda x: (flat(x) - 0.5) / 0.3, IMAGES))


def test_a_score_that_depends_on_its_batch_is_refused():
    score = lambda x: x.mean(axis=(1, 2, 3))
    first, spread = checks.probed("f", "score gives another number", score, IMAGES)
    np.testing.assert_allclose(first, IMAGES.mean(axis=(1, 2, 3)), rtol=1e-5)
    assert spread == 0
    with pytest.raises(ValueError, match=r"^f: score gives another number for an image"):
        checks.probed("f", "score gives another number", lambda x: score(x) - score(x).mean(), IMAGES)


def test_what_python_draws_is_seen():
    rng = np.random.default_rng(0)
    flags = checks.network("f", lambda x: flat(x) + rng.normal(size=(1, 5)).astype(np.float32), IMAGES)
    assert raised(flags) == {"random outputs"}


def test_nan_on_some_images_is_counted_and_on_all_is_refused():
    flags = checks.network("f", lambda x: jnp.where(x[:, :1, 0, 0] < 0.5, jnp.nan, flat(x)), IMAGES)
    (flag,) = [flag for flag in flags if flag.raised]
    assert f"at {(IMAGES[:, 0, 0, 0] < 0.5).sum()} of 20 images" in flag.says
    for bad in (jnp.nan, jnp.inf, -jnp.inf):
        with pytest.raises(ValueError, match="NaN or infinite logits for each of 20 images"):
            checks.network("f", lambda x, bad=bad: flat(x) * 0 + bad, IMAGES)


def test_probabilities_and_constants_are_flagged():
    assert raised(checks.network("f", lambda x: jax.nn.softmax(flat(x)), IMAGES)) == {"probabilities"}
    assert raised(checks.network("f", lambda x: flat(x) * 0 + jnp.arange(5.0)[None], IMAGES)) == {
        "constant outputs"
    }
    # Logarithms of probabilities are logits.
    assert not raised(checks.network("f", lambda x: jax.nn.log_softmax(flat(x)), IMAGES))


@pytest.mark.parametrize(
    ("counts", "classes", "expected"),
    [
        ([10] * 10, 10, False),
        ([36, 30, 40, 37, 33, 36, 35, 38, 34, 40], 10, False),  # digits
        ([200] * 5, 10, True),  # the first 1000 of a set sorted by class
        ([50], 2, True),
        ([91, 9], 2, False),
        ([990, 10], 2, True),
        ([5099, 4149, 2882, 2523, 2384, 1977, 2019, 1660, 1595, 1744], 10, False),  # SVHN's test images
        ([8000] + [100] * 9, 10, True),
        ([1, 1], 1000, False),
        ([36] * 10, 1000, True),  # ten classes, a thousand logits
    ],
)
def test_sets_that_lack_classes_are_flagged(counts, classes, expected):
    y = np.repeat(np.arange(len(counts)), counts).astype(np.int32)
    assert checks.class_counts(y, classes).raised is expected


def test_a_thousand_of_a_thousand_classes_are_no_surprise():
    for seed in range(20):
        y = np.random.default_rng(seed).integers(1000, size=1000).astype(np.int32)
        assert not checks.class_counts(y, 1000).raised


def test_known_images_inside_a_loop_are_looked_at_when_it_is_traced():
    x = jnp.asarray(X)

    def corrupted(_, total):
        checks.floats("corrupt", x)
        checks.points("pgd", x, eps=0.1, lower=0.0, upper=1.0)
        return total + x.sum()

    assert jax.jit(lambda: jax.lax.fori_loop(0, 2, corrupted, jnp.float32(0)))() > 0
    with pytest.raises(ValueError, match="pixels range from 127"):
        bright = 255 * x
        jax.jit(lambda: checks.floats("corrupt", bright))()
