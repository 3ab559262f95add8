"""What a user brings is checked before any work, and the error says in one line how to mend it."""

import re

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from robustjax import checks

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
