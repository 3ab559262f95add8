"""Bilinear maps that are computed one way on a CPU and another way elsewhere, as the platform compiled for asks.

`jax.default_backend()` says where a program was written, not where it will run: a program for a TPU may be lowered on
a host without one. So the choice is made by a primitive, when it is lowered. The primitive is bilinear, and so are both
of its gradients, which are the same primitive in another role: derivatives of every order and mode follow from two
rules of transposition, and each is lowered once, for its platform alone.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array

from robustjax.numerics import default_precision

Role = Literal["product", "gradient of x", "gradient of kernel"]
Mapped = tuple[bool, bool]  # of the left and the right operand: whether it has the axis


@runtime_checkable
class Product(Protocol):
    """A bilinear map of feature maps (b, h, w, c) and a kernel (i, j, c, o), in several forms of the same value.

    The forms get both operands in one type. A kernel of a wider type than x is rounded to that of x; its gradient is
    computed, and summed over devices, in its own type.

    Products that are equal must be the same map: take a frozen dataclass of the settings. `plain` is for accelerators,
    the others are for CPUs: `along_x` and `along_kernel` are forms whose transpose in that operand is fast.
    """

    @property
    def precision(self) -> Any:
        """Of the products, as jax has it; None for the default."""
        ...

    def plain(self, x: Array, kernel: Array) -> Array:
        """Compute the map as jax does."""
        ...

    def product(self, x: Array, kernel: Array) -> Array:
        """Compute the map, fast where nothing is differentiated."""
        ...

    def along_x(self, x: Array, kernel: Array) -> Array:
        """Compute the map in the form to transpose for the gradient of x."""
        ...

    def along_kernel(self, x: Array, kernel: Array) -> Array:
        """Compute the map in the form to transpose for the gradient of the kernel."""
        ...


def multiply(product: Product, x: Array, kernel: Array) -> Array:
    """Apply a bilinear map, in the form for the platform that the program is compiled for.

    The default precision is read now, as jax's own operations read it: when the map is lowered it may be another.
    """
    asked = default_precision()
    if asked is not None and product.precision is None and dataclasses.is_dataclass(product):
        product = dataclasses.replace(product, precision=asked)
    return _bind(x, kernel, product=product, role="product", shape=None, dtype=None, maps=())


def _bind(left: Array, right: Array, **settings: Any) -> Array:
    """Apply the primitive.

    Args:
      left, right: x and the kernel; for a gradient, the cotangent of the result stands in the place of that operand.
      product: the map.
      role: what to compute.
      shape: of the gradient to compute, without mapped axes.
      dtype: of the result; None for what the product of these operands has.
      maps: which operands have the first axis that is mapped over, which the second, ...; mapped axes come first.
    """
    return _bilinear.bind(*_varying_alike(left, right), **settings)


def _compute(
    platform: str,
    left: Array,
    right: Array,
    *,
    product: Product,
    role: Role,
    shape: tuple[int, ...] | None,
    dtype: Any,
    maps: tuple[Mapped, ...],
) -> Array:
    on_cpu = platform == "cpu"

    def value(x: Array, kernel: Array) -> Array:
        kernel = kernel.astype(x.dtype)
        out = product.product(x, kernel) if on_cpu else product.plain(x, kernel)
        return out if dtype is None else out.astype(dtype)

    def transposed(form: Callable[[Array], Array], known: Array, cotangent: Array) -> Array:
        # One that varies as the known operand does: else each transposition would add a sum over devices.
        unknown = _varying(jnp.zeros(shape or (), dtype), _axes(known))
        given = cotangent.astype(jax.eval_shape(form, unknown).dtype)
        return jax.linear_transpose(form, unknown)(given)[0]

    def gradient_of_x(cotangent: Array, kernel: Array) -> Array:
        form, kernel = product.along_x if on_cpu else product.plain, kernel.astype(dtype)
        if platform == "tpu":
            # XLA would compute the input gradient of one layer within that of the layer before it, anew for each of its
            # tiles.
            cotangent = jax.lax.optimization_barrier(cotangent)
        return transposed(lambda x: form(x, kernel), kernel, cotangent)

    def gradient_of_kernel(x: Array, cotangent: Array) -> Array:
        form, x = product.along_kernel if on_cpu else product.plain, x.astype(dtype)
        return transposed(lambda kernel: form(x, kernel), x, cotangent)

    run = {"product": value, "gradient of x": gradient_of_x, "gradient of kernel": gradient_of_kernel}[role]
    for mapped in reversed(maps):
        run = jax.vmap(run, [0 if each else None for each in mapped])
    return run(left, right)


_bilinear = Primitive("bilinear_by_platform")
_run = jax.jit(_bilinear.bind, static_argnames=("product", "role", "shape", "dtype", "maps"))
_bilinear.def_impl(lambda left, right, **settings: _run(left, right, **settings))
mlir.register_lowering(_bilinear, mlir.lower_fun(partial(_compute, "other"), multiple_results=False))
for _platform in ("cpu", "tpu"):
    _lowered = mlir.lower_fun(partial(_compute, _platform), multiple_results=False)
    mlir.register_lowering(_bilinear, _lowered, _platform)


@_bilinear.def_abstract_eval
def _abstract(
    left: Any, right: Any, *, shape: tuple[int, ...] | None, maps: tuple[Mapped, ...], **settings: Any
):
    shapes = [jax.ShapeDtypeStruct(each.shape, each.dtype) for each in (left, right)]
    out = jax.eval_shape(partial(_compute, "other", shape=shape, maps=maps, **settings), *shapes)
    # Both operands vary over the same axes of a mesh; so does the result.
    like = left if left.ndim == len(out.shape) else right
    return like.update(shape=out.shape, dtype=out.dtype, weak_type=False)


def _varying_alike(left: Array, right: Array) -> tuple[Array, Array]:
    """Let both operands vary over the same axes of a mesh, as jax's own operations do within `shard_map`."""
    return _varying(left, _axes(right)), _varying(right, _axes(left))


def _varying(x: Array, axes: frozenset[str]) -> Array:
    missing = tuple(sorted(axes - _axes(x)))
    return jax.lax.pcast(x, missing, to="varying") if missing else x


def _axes(x: Array) -> frozenset[str]:
    kind: Any = jax.typeof(x)
    return kind.vma if hasattr(kind, "vma") else kind.manual_axis_type.varying  # the second since jax 0.10


def _gradient(side: int, cotangent: Array, left: Any, right: Any, **settings: Any) -> Array:
    """Transpose the primitive in its left (0) or right (1) operand."""
    role, maps = settings["role"], settings["maps"]
    wanted = (left, right)[side].aval
    has = [mapped[side] for mapped in maps]
    x, kernel = "gradient of x", "gradient of kernel"
    # What is unknown, in terms of the operation that it was in -> role, left, right of the one that gives it.
    role, left, right, order = {
        ("product", 0): (x, cotangent, right, (None, 1)),
        ("product", 1): (kernel, left, cotangent, (0, None)),
        (x, 0): ("product", cotangent, right, (None, 1)),
        (x, 1): (kernel, cotangent, left, (None, 0)),
        (kernel, 0): (x, right, cotangent, (1, None)),
        (kernel, 1): ("product", left, cotangent, (0, None)),
    }[role, side]
    maps = tuple((order[0] is None or m[order[0]], order[1] is None or m[order[1]]) for m in maps)
    shape = None if role == "product" else wanted.shape[sum(has) :]
    kind = {"product": settings["product"], "role": role, "shape": shape, "dtype": wanted.dtype}
    out = _bind(left, right, **kind, maps=maps)
    return out.sum([i for i, each in enumerate(has) if not each])


ad.defbilinear(_bilinear, partial(_gradient, 0), partial(_gradient, 1))


def _batched(
    operands: Any, axes: Any, *, shape: tuple[int, ...] | None, maps: tuple[Mapped, ...], **settings: Any
):
    left, right = (
        each if axis is None else jnp.moveaxis(each, axis, 0)
        for each, axis in zip(operands, axes, strict=True)
    )
    mapped = tuple(axis is not None for axis in axes)
    if mapped == (True, False) and not maps and settings["role"] != "gradient of kernel":
        # More examples for the same kernel.
        count, batch = left.shape[:2]
        shape = None if shape is None else (count * shape[0], *shape[1:])
        out = _bind(left.reshape(-1, *left.shape[2:]), right, shape=shape, maps=(), **settings)
        return out.reshape(count, batch, *out.shape[1:]), 0
    return _bind(left, right, shape=shape, maps=(mapped, *maps), **settings), 0


batching.primitive_batchers[_bilinear] = _batched
