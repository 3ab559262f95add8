"""Networks as an adaptive attacker sees them: the mean of a random one, and slopes for those that have none."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, UInt32

from robustjax import checks
from robustjax.numerics import fold
from robustjax.types import Images, Keys, Logits, LogitsFn

Stochastic = Callable[[Keys, Images], Logits]  # one key per example


def averaged(
    stochastic: Stochastic,
    key: PRNGKeyArray,
    *,
    samples: int,
    chunk_size: int | None = None,
    of: Callable[[Logits], Array] | None = None,
) -> LogitsFn:
    """Average a random network over its randomness: expectation over transformation.

    The result is a function, as attacks need it, and yet new at every point: the key of an image is `key` folded
    with a hash of the bits of the image. The same image gets the same noise in every batch and at every place
    in it, and an image that differs in one bit gets other noise, so that an attack cannot settle on what one
    draw gets wrong.

    Args:
      stochastic: (keys, x) -> logits, one key per example.
      key: one key.
      samples: how many forward passes to average.
      chunk_size: how many to fold into the batch axis of one pass; all by default. With fewer, gradients cost one
        more forward pass and memory stays that of one group.
      of: what to average, such as `jax.nn.log_softmax`; the logits themselves by default.
    Raises:
      ValueError: if samples or chunk_size is less than 1, or key is not one typed key.

    Reference: Athalye et al. 2018, arXiv:1707.07397 and arXiv:1802.00420. Values, gradients and outcomes all
      come from the mean of the same passes.
    """
    checks.count("averaged", "samples", samples)
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"averaged: chunk_size is {chunk_size}, must be at least 1")
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key) or key.ndim:
        raise ValueError(
            f"averaged: key is of {key.dtype} and shape {key.shape}, must be one key of jax.random.key"
        )
    width = min(chunk_size or samples, samples)

    def logits_fn(x: Float[Array, "b ..."]) -> Logits:
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, fingerprint(x))

        def once(draw: Array) -> Array:
            logits = stochastic(fold(keys, draw), x)
            return logits if of is None else of(logits)

        if width == samples:
            return jax.vmap(once)(jnp.arange(samples)).mean(axis=0)
        return jax.lax.map(jax.checkpoint(once), jnp.arange(samples), batch_size=width).mean(axis=0)

    return logits_fn


def fingerprint(x: Array) -> UInt32[Array, "b"]:
    """Hash the bits of every example, features and their places: equal for equal values, and no gradient.

    A sum modulo 2^32 of mixed features does not depend on the order of summation.
    """
    flat = jax.lax.stop_gradient(x).reshape(x.shape[0], -1).astype(jnp.float32)
    # -0 is equal to 0 and must hash like it.
    bits = jax.lax.bitcast_convert_type(jnp.where(flat == 0.0, 0.0, flat), jnp.uint32)
    place = jnp.arange(flat.shape[1], dtype=jnp.uint32)
    # Few images use all bits of a float, black and white ones two values: without mixing, sums would collide.
    return _mixed(bits ^ _mixed(place + jnp.uint32(1))[None]).sum(axis=1, dtype=jnp.uint32)


def substituted(
    forward: Callable[[Array], Array], backward: Callable[[Array], Array] | None = None
) -> Callable[[Array], Array]:
    """Run one function and differentiate another: backward pass differentiable approximation.

    `lambda x: logits_fn(substituted(defence)(x))` is a network with a defence in front that has no slope, or
    shatters it, and the slope of `backward` instead. Values are those of `forward`, to the bit.

    Args:
      forward: what runs; need not be differentiable, and may leave JAX by `jax.pure_callback`.
      backward: what is differentiated, with results of the same shapes; the identity by default.

    Reference: Athalye, Carlini and Wagner 2018, arXiv:1802.00420.
    """
    surrogate = backward or (lambda x: x)

    @jax.custom_jvp
    def run(x: Array) -> Array:
        return forward(x)

    @run.defjvp
    def _(primals, tangents):
        return run(*primals), jax.jvp(surrogate, primals, tangents)[1]

    return run


def _mixed(bits: Array) -> Array:
    """Let every bit of a word decide half of the others, as MurmurHash3 ends."""
    bits = (bits ^ (bits >> 16)) * jnp.uint32(0x85EBCA6B)
    bits = (bits ^ (bits >> 13)) * jnp.uint32(0xC2B2AE35)
    return bits ^ (bits >> 16)
