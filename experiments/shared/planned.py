"""What a script runs most of its time, as programs that can be compiled for machines that are not there."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from robustjax import training
from robustjax.data import order
from robustjax.data.known import KNOWN
from robustjax.staged_training import Stage
from robustjax.types import Batch


class Planned(NamedTuple):
    """One program.

    Attributes:
      name: what it does, for a reader.
      trace: gives the program traced for arguments of known shapes on the mesh.
      images: that go through it in one call, over all devices.
      calls: of it in the whole run.
    """

    name: str
    trace: Callable[[], Any]
    images: int
    calls: int


def of_step(
    step: Callable[..., Any],
    model: Any,
    tx: optax.GradientTransformation,
    batch: PyTree,
    mesh: Mesh,
    *,
    calls: int,
    ema: bool = False,
    name: str = "training step",
    beside: PyTree = None,
) -> Planned:
    """Plan a training step.

    Args:
      step: (state, batch) -> (state, metrics), compiled.
      model, tx: what is trained, and how.
      batch: of shapes, cut over the mesh; its arrays' first dimensions are the images, added up.
      mesh: of devices.
      calls: updates in the whole run.
      ema: whether an average of the weights is kept.
      name: of the program.
      beside: arrays that every device holds whole; if there are any, the step takes (batch, beside).
    """

    def trace() -> Any:
        state = jax.eval_shape(lambda key: training.start(key, model, tx, ema=ema), jax.random.key(0))
        traced: Any = step
        given: Any = placed(batch, mesh, *mesh.axis_names)
        if beside is not None:
            given = given, placed(beside, mesh)
        return traced.trace(placed(state, mesh), given)

    images = sum(leaf.shape[0] for leaf in jax.tree.leaves(batch) if len(leaf.shape) == 4)
    return Planned(name, trace, images, calls)


def of_stage(stage: Stage, mesh: Mesh) -> Planned:
    """Plan one update of a staged training, whose arrays may be shapes alone.

    Args:
      stage: of `staged_training`.
      mesh: of one device.
    """

    def trace() -> Any:
        state = jax.eval_shape(stage.start)
        rows = stage.batch_size
        batch = jax.tree.map(lambda a: jax.ShapeDtypeStruct((rows, *a.shape[1:]), a.dtype), stage.arrays)
        # A segment is a loop of such updates that donates its state.
        return jax.jit(stage.step, donate_argnums=0).trace(placed(state, mesh), placed(batch, mesh))

    return Planned(f"{stage.name}: update", trace, stage.batch_size, stage.total)


def require_one_device(command: str, mesh: Mesh) -> None:
    """Refuse to plan for several devices what a script does on one.

    Raises:
      ValueError: if there are several.
    """
    if mesh.size > 1:
        raise ValueError(
            f"{command} trains on one device, must be planned for one, such as --topology v5e:1x1"
        )


def images_of(count: int, shape: tuple[int, ...]) -> Any:
    """Describe images (count, h, w, c) in [0, 1]."""
    return jax.ShapeDtypeStruct((count, *shape), jnp.float32)


def batch_of(count: int, shape: tuple[int, ...], *, of_pixels: tuple[int, ...] = ()) -> Batch:
    """Describe a batch of images and labels, of an image each or of its (h, w) pixels."""
    labels: Any = jax.ShapeDtypeStruct((count, *of_pixels), jnp.int32)
    return Batch(images_of(count, shape), labels)


def training_images(dataset: str, held_out: int | None = None) -> int:
    """Say about how many images of a known set are trained on.

    Args:
      dataset: its name.
      held_out: training images that are not trained on, by default about one in ten.
    Raises:
      ValueError: if the set is not known.
    """
    known = KNOWN.get(dataset)
    total = known.counts.get("train", 0) if known else 0
    if not total:
        raise ValueError(
            f"dataset is {dataset!r}, must be one whose number of images is known, such as cifar10"
        )
    return total - (total // order.HELD_OUT if held_out is None else held_out)


def placed(tree: PyTree, mesh: Mesh, *axes: str) -> PyTree:
    """Say of arrays that they lie on a mesh: whole on every device, or cut along their first dimension."""
    sharding = NamedSharding(mesh, PartitionSpec(*axes))
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), tree)
