"""What a script runs most of its time, as programs that can be compiled for machines that are not there."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree


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


def placed(tree: PyTree, mesh: Mesh, *axes: str) -> PyTree:
    """Say of arrays that they lie on a mesh: whole on every device, or cut along their first dimension."""
    sharding = NamedSharding(mesh, PartitionSpec(*axes))
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), tree)
