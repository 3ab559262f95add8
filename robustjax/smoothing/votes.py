"""How often each class wins among samples of an image under noise."""

import dataclasses
import math
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Int

from robustjax import checks
from robustjax.numerics import Norm, in_float32, keys_for
from robustjax.smoothing.noise import Noise
from robustjax.types import Keys, LogitsFn


@runtime_checkable
class Count(Protocol):
    """Count the classes over samples of the noise; their number may be traced, and differ between examples."""

    def __call__(self, key: Keys, x: Array, samples: int | Int[Array, "..."]) -> Int[Array, "b ... k"]: ...


@dataclasses.dataclass(frozen=True)
class Boxed:
    """A count that knows the box of its images, and refuses others.

    Attributes:
      count: what counts.
      box: its lower and upper edge. (Not fields of their own: `jax.jit` copies fields, and has a method `lower`.)
      norm: that its noise certifies in.
    """

    count: Count
    box: tuple[float, float]
    norm: Norm = "l2"

    def __call__(self, key: Keys, x: Array, samples: int | Int[Array, "..."]) -> Int[Array, "b ... k"]:
        """Check the images, then count."""
        require("votes", self, x)
        return self.count(key, x, samples)


def require(who: str, count: Count, x: Array) -> None:
    """Check images before they are counted: floats, finite, in the box if the count knows it; traced ones pass.

    Raises:
      ValueError: in one line, if they are not.
    """
    lower, upper = count.box if isinstance(count, Boxed) else (-math.inf, math.inf)
    checks.examples(who, x, lower=lower, upper=upper)


def require_norm(who: str, count: Count, norm: Norm) -> None:
    """Check that a radius in a norm is promised by the noise of a count, if the count knows it.

    Raises:
      ValueError: in one line, if it is not.
    """
    if isinstance(count, Boxed) and count.norm != norm:
        raise ValueError(
            f"{who}: radii are in {norm}, but the noise of the count certifies in {count.norm}; for uniform and "
            "Laplace noise give reach=radii.uniform(half_width) or radii.laplace(scale), for Gaussian noise sigma"
        )


def votes(logits_fn: LogitsFn, noise: Noise, *, classes: int, chunk_size: int = 1000) -> Count:
    """Count the most likely class over samples of each image under noise.

    Images take turns, each with `chunk_size` samples at a time, so memory does not depend on their number and one
    compiled program serves every number. The network computes in float32 on every device. A sample with a NaN among
    its logits counts for no class, which lowers every bound.

    Args:
      logits_fn: the classifier underneath, (c, ...) -> (c, classes); or a segmenter, to (c, h, w, classes).
      noise: how samples are drawn.
      classes: number of logits, at least two: of one alone nothing can be certified.
      chunk_size: samples per forward pass. It changes which noise is drawn, not its distribution.
    Returns:
      count(key, x, samples) -> (b, classes) int32, rows adding up to samples; of a segmenter (b, h, w, classes). `key`
      is one key, or one per example; an example's count does not depend on its batch.
    Raises:
      ValueError: if the network cannot be called, classes is less than 2 or chunk_size less than 1; when counting, if
        the network gives another number of logits than classes, or images are not floats in the box of the noise.
    """
    checks.callable_network("votes", logits_fn)
    checks.count("votes", "classes", classes, least=2)
    checks.count("votes", "chunk_size", chunk_size)

    @in_float32
    def count(key: Keys, x: Array, samples: int | Int[Array, "..."]) -> Int[Array, "b ... k"]:
        checks.setting("votes", "samples", samples, least=0)
        if not jnp.issubdtype(jnp.result_type(samples), jnp.integer):
            raise ValueError(f"votes: samples is {samples}, must be a whole number, or one per image")
        amount = jnp.broadcast_to(jnp.asarray(samples, jnp.int32), (x.shape[0],))

        def one(row: tuple[Keys, Array, Array]) -> Array:
            key, image, samples = row

            def draw(i: Array | int) -> Array:
                return noise.sample(jax.random.fold_in(key, i), image, chunk_size)

            def more(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
                total, noisy = carry
                logits = logits_fn(noisy)
                within = (i * chunk_size + jnp.arange(chunk_size) < samples).reshape(
                    -1, *[1] * (logits.ndim - 2)
                )
                counted = within & ~jnp.isnan(logits).any(axis=-1)
                won = jax.nn.one_hot(logits.argmax(axis=-1), classes, dtype=jnp.int32)
                # Drawn a turn ahead: otherwise XLA:CPU fuses the draw into the network's first layer, which then
                # repeats it for every pixel that it reads more than once.
                return total + jnp.where(counted[..., None], won, 0).sum(axis=0), draw(i + 1)

            first = draw(0)
            checks.votes("votes", logits_fn, first, classes=classes)
            like = jax.eval_shape(logits_fn, first).shape[1:-1]
            # Built from the image, so that under shard_map it varies over the same devices.
            none = jnp.broadcast_to(jnp.full_like(image.reshape(-1)[:1], 0, jnp.int32), (*like, classes))
            return jax.lax.fori_loop(0, (samples + chunk_size - 1) // chunk_size, more, (none, first))[0]

        return jax.lax.map(one, (keys_for(key, x.shape[0]), x, amount))

    return Boxed(count, (noise.lower, noise.upper), noise.norm)


def over_devices(count: Count, mesh: Mesh) -> Count:
    """Share the images among the devices along the first axis of a mesh; the counts stay what one device counts.

    Arrays that the classifier holds must be on all these devices, or on none.
    """
    cut = PartitionSpec(mesh.axis_names[0])
    shared = jax.shard_map(count, mesh=mesh, in_specs=cut, out_specs=cut)

    def every(key: Keys, x: Array, samples: int | Int[Array, "..."]) -> Int[Array, "b ... k"]:
        rows = x.shape[0]
        place = jnp.arange(rows + -rows % mesh.shape[mesh.axis_names[0]])
        row = jnp.minimum(place, rows - 1)  # what fills up the last device draws no samples
        checks.setting("votes", "samples", samples, least=0)
        if not jnp.issubdtype(jnp.result_type(samples), jnp.integer):
            raise ValueError(f"votes: samples is {samples}, must be a whole number, or one per image")
        amount = jnp.broadcast_to(jnp.asarray(samples, jnp.int32), (rows,))[row]
        return shared(keys_for(key, rows)[row], x[row], jnp.where(place < rows, amount, 0))[:rows]

    return Boxed(every, count.box, count.norm) if isinstance(count, Boxed) else every
