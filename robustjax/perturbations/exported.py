"""A learned set as a program that needs neither this library nor the network's code."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
from jax import export
from jaxtyping import Array

from robustjax.perturbations.sets import PerturbationSet
from robustjax.types import Images


def exported(
    space: PerturbationSet, shape: Sequence[int], *, platforms: Sequence[str] | None = None
) -> export.Exported:
    """Lower (x, u) -> decode(x, u) to StableHLO, parameters inside, for batches of any size.

    Args:
      space: a set whose decoder has no random part.
      shape: of one image, (h, w, c).
      platforms: where it is to run, of "cpu", "cuda", "rocm" and "tpu"; the present one by default.
    Returns:
      The program: `call(x, u)` runs it, `mlir_module()` is its text; `saved` writes it to files.
    Raises:
      ValueError: if shape is not that of an image.
    """
    if len(shape) != 3:
        raise ValueError(f"exported: shape is {tuple(shape)}, must be (h, w, c)")
    (b,) = export.symbolic_shape("b")
    x = jax.ShapeDtypeStruct((b, *shape), jnp.float32)
    u = jax.ShapeDtypeStruct((b, space.dimension), jnp.float32)

    def decode(x: Images, u: Array) -> Images:
        # One key for all: a decoder that uses it cannot be exported.
        return space.decode(jax.random.key(0), space.prepare(x), u)

    return export.export(jax.jit(decode), platforms=platforms)(x, u)


def saved(program: export.Exported, folder: str | Path) -> list[Path]:
    """Write a program to files, and return which.

    `decoder.mlirbc` is portable StableHLO as bytes and `decoder.mlir` as text, for any runtime that reads StableHLO;
    neither needs a package beside jax. `decoder.jax`, only where the package flatbuffers is installed, is read back
    by `jax.export.deserialize(data).call`, which can be differentiated in both arguments.
    """
    folder = Path(folder)
    contents = {
        "decoder.mlirbc": program.mlir_module_serialized,
        "decoder.mlir": program.mlir_module().encode(),
    }
    with contextlib.suppress(ImportError):  # jax asks for flatbuffers here, which nothing else needs
        contents["decoder.jax"] = bytes(program.serialize(vjp_order=1))
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    return [folder / name for name in contents]
