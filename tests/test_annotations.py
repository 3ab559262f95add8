"""The check of annotations that all tests run under says what is untrue, and nothing else."""

import jax.numpy as jnp
import pytest
from annotations import Untrue, checked
from jaxtyping import Array, Float

import robustjax.numerics


@checked
def rows(x: Float[Array, "b d"], *, scale: float = 1.0) -> Float[Array, "b"]:
    if x.size == 0:
        raise ValueError("rows: x is empty")
    return x.astype(jnp.float32).sum(axis=1 if scale else 0)


def test_a_true_annotation_passes_and_an_int_is_a_float():
    assert rows(jnp.ones((3, 2)), scale=2).shape == (3,)


@pytest.mark.parametrize(
    ("given", "untrue"),
    [
        ((jnp.ones((3, 2, 1)),), r"x is ArrayImpl float32\(3, 2, 1\)"),
        ((jnp.ones((3, 2), int),), "x is ArrayImpl int32"),
        ((jnp.ones((3, 2)), jnp.float32(1.0)), "scale is"),
        ((jnp.ones((3, 2)), 0.0), r"return is ArrayImpl float32\(2,\)"),  # of another size than b
    ],
)
def test_what_is_excluded_is_untrue_where_it_gives_a_result(given, untrue):
    x, *scale = given
    with pytest.raises(Untrue, match=untrue):
        rows(x, **({"scale": scale[0]} if scale else {}))


def test_an_error_of_the_function_comes_first():
    with pytest.raises(ValueError, match="x is empty"):
        rows(jnp.ones((0, 2, 1)))
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        rows()


def test_the_library_is_checked():
    with pytest.raises(Untrue, match="norm: x is"):
        robustjax.numerics.norm(jnp.ones((2, 3), jnp.int32), "l1")
