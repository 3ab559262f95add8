"""Checks of concrete input before any work: what was given, what is expected, how to get there.

Every entrance for a user's arrays and networks calls these. Inside jit, where values are not known, they see shapes
and dtypes only.
"""

import contextlib
import math
import os
from collections.abc import Iterator, Sequence
from typing import Any, cast, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from robustjax.numerics import AnyNorm, Norm
from robustjax.types import Flag

PROBED = 64  # images that a network is tried on before any work
SPREAD = 1e-4  # between two passes, logits scaled to length 1; AutoAttack's threshold
NEAR = 1e-2  # AutoAttack takes 1e-5, but probabilities computed in bfloat16 add up to 1 +- 4e-3
MATES = 1e-3  # of the largest logit: what other images in the batch may change by rounding
ADAPTERS = {"flax.nnx": "from_nnx", "flax.linen": "from_flax", "equinox": "from_equinox", "haiku": "from_haiku",
            "torch": "from_torch"}  # fmt: skip
APART = ("from_flax", "from_haiku")  # of networks whose weights lie beside them


def images(who: str, x: Any, *, lower: float = 0.0, upper: float = 1.0) -> np.ndarray:
    """Check images and return them as float32 NHWC in the box; bytes become floats in [0, 1].

    Args:
      who: the function that was called, for the error.
      x: (n, h, w, c), bytes or floats.
      lower, upper: the box.
    Raises:
      ValueError: in one line, for another rank, channels first, another dtype, no image, or values outside the box
        or not finite.
    """
    box(who, lower, upper)
    if not concrete(x):
        raise ValueError(f"{who}: images are traced, must be known: call it outside jit, grad and vmap")
    move = "permute" if hasattr(x, "permute") else "transpose"  # of tensors of PyTorch
    x = _read(who, "images", x)
    if x.ndim != 4:
        raise ValueError(
            f"{who}: images have shape {x.shape}, must be (n, height, width, channels)"
            + ("; for one image write x[None]" if x.ndim == 3 else "")
        )
    if len(x) == 0:
        raise ValueError(f"{who}: images has no image, must hold at least one")
    if x.size == 0:
        raise ValueError(f"{who}: images have shape {x.shape}, must have at least one pixel and channel")
    if x.shape[1] in (1, 3) and x.shape[3] not in (1, 2, 3, 4) and x.shape[2] == x.shape[3]:
        raise ValueError(
            f"{who}: images have shape {x.shape}, which looks like channels first; "
            f"must be (n, height, width, channels): write x.{move}(0, 2, 3, 1)"
        )
    if x.dtype == np.uint8:
        if (lower, upper) != (0.0, 1.0):
            raise ValueError(
                f"{who}: images are bytes and the box is [{lower:g}, {upper:g}]; bytes are read as x / 255 in [0, 1], "
                "pass floats for another box"
            )
        return x.astype(np.float32) / np.float32(255)
    if x.dtype.kind != "f" and x.dtype.name != "bfloat16":
        raise ValueError(f"{who}: images are {x.dtype}, must be floats in [{lower:g}, {upper:g}] or bytes")
    x = x.astype(np.float32)
    if bad := int((~np.isfinite(x)).reshape(len(x), -1).any(axis=1).sum()):
        raise ValueError(f"{who}: {bad} images have pixels that are not finite")
    low, high = float(x.min()), float(x.max())
    if low < lower - 1e-6 or high > upper + 1e-6:
        hint = "divide them by 255" if low >= 0 and 1.5 < high <= 255 else (
            "undo the normalisation, or pass lower= and upper= with eps in the same units; "
            "a network that normalises should do so inside"
        )  # fmt: skip
        raise ValueError(
            f"{who}: pixels range from {low:.4g} to {high:.4g}, must lie in the box [{lower:g}, {upper:g}]; {hint}"
        )
    return np.clip(x, lower, upper)


def box(who: str, lower: Any, upper: Any) -> None:
    """Check the box that pixels must stay in: two finite numbers, the first below the second.

    Raises:
      ValueError: in one line, if it is not.
    """
    if not (_number(lower) and _number(upper)):
        raise ValueError(f"{who}: the box is [{_shown(lower)}, {_shown(upper)}], must be two numbers")
    if not (math.isfinite(lower) and math.isfinite(upper) and lower < upper):
        raise ValueError(f"{who}: the box is [{lower:g}, {upper:g}], must be finite, and lower below upper")


def floats(who: str, x: Any, *, lower: float = 0.0, upper: float = 1.0) -> None:
    """Check images that are about to be changed: floats, and in the box where their values are known.

    Inside jit it sees the dtype alone.

    Args:
      who: the function that was called, for the error.
      x: floats, of any shape.
      lower, upper: the box; infinite where any finite number will do.
    Raises:
      ValueError: in one line, for bytes and integers, and for values outside the box or not finite.
    """
    dtype = getattr(x, "dtype", None)
    if dtype is None:
        raise ValueError(f"{who}: images are a {type(x).__name__}, must be an array of floats")
    if dtype.kind != "f" and dtype.name != "bfloat16":
        hint = "; of bytes take x.astype('float32') / 255" if dtype == np.uint8 else ""
        raise ValueError(f"{who}: images are {dtype}, must be floats in [{lower:g}, {upper:g}]{hint}")
    if not concrete(x) or not x.size:
        return
    low, high = _ends(x)
    if not (math.isfinite(low) and math.isfinite(high) and lower - 1e-6 <= low and high <= upper + 1e-6):
        hint = "; divide them by 255" if low >= 0 and 1.5 < high <= 255 else ""
        raise ValueError(
            f"{who}: pixels range from {low:.4g} to {high:.4g}, must lie in [{lower:g}, {upper:g}]{hint}"
        )


def labels(who: str, y: Any, *, count: int, classes: int | None = None) -> np.ndarray:
    """Check labels and return them as int32.

    Args:
      who: the function that was called, for the error.
      y: (n,) whole numbers from 0.
      count: how many images there are.
      classes: how many logits there are, if known.
    Raises:
      ValueError: in one line, for one-hot rows, fractions, another length, or labels outside 0..classes-1.
    """
    y = _read(who, "labels", y)
    if y.ndim == 2 and len(y) == count and y.shape[1] > 1:
        raise ValueError(
            f"{who}: labels have shape {y.shape}, must be (n,): of one-hot rows or probabilities take y.argmax(axis=1)"
        )
    if y.shape != (count,):
        raise ValueError(f"{who}: labels have shape {y.shape}, must be ({count},), one for each image")
    if y.dtype.kind == "b" or (
        y.dtype.kind not in "iu"
        and not (y.dtype.kind == "f" and np.isfinite(y).all() and (y == np.rint(y)).all())
    ):
        raise ValueError(f"{who}: labels are {y.dtype}, must be whole numbers from 0")
    if not count:
        return y.astype(np.int32)
    low, high = int(y.min()), int(y.max())
    if low < 0:
        raise ValueError(f"{who}: the smallest label is {low}, must be at least 0")
    if classes is not None and high >= classes:
        hint = "; labels from 1 need y - 1" if low == 1 and high == classes else ""
        raise ValueError(f"{who}: the largest label is {high}, must be below the {classes} logits{hint}")
    if high > np.iinfo(np.int32).max:
        raise ValueError(f"{who}: the largest label is {high}, must fit into 32 bits")
    return y.astype(np.int32)


def radius(
    who: str,
    eps: Any,
    *,
    norm: str,
    shape: Sequence[int],
    lower: float = 0.0,
    upper: float = 1.0,
    l0: bool = False,
) -> float:
    """Check a radius against its norm and box.

    Args:
      who: the function that was called, for the error.
      eps: in units of the images.
      norm: linf, l2 or l1; or l0, whose radius counts pixels.
      shape: of one image.
      lower, upper: the box.
      l0: whether the norm may be l0.
    Raises:
      ValueError: in one line, if it is no number, negative, not finite, or larger than the box is wide; in l0, if it is
        not whole, or more than there are pixels.
    """
    known = get_args(AnyNorm if l0 else Norm)
    if not isinstance(norm, str) or norm not in known:
        raise ValueError(f"{who}: norm is {_shown(norm)}, must be one of {', '.join(known)}")
    if not _number(eps):
        raise ValueError(f"{who}: eps is {_shown(eps)}, must be a number such as 8 / 255")
    eps = float(eps)
    if not (math.isfinite(eps) and eps > 0):
        raise ValueError(f"{who}: eps is {eps:g}, must be above 0 and finite")
    if norm == "l0":
        pixels = math.prod(shape[:-1])
        if eps != math.floor(eps) or eps > pixels:
            raise ValueError(
                f"{who}: eps is {eps:g}, must be a whole number from 1 to {pixels}: in l0 it counts pixels"
            )
        return eps
    side, features = upper - lower, math.prod(shape)
    widest = {"linf": side, "l2": side * math.sqrt(features), "l1": side * features}[norm]
    if eps > widest:
        hint = "; of radii in bytes take eps / 255" if norm == "linf" and eps <= 255 * side else ""
        raise ValueError(
            f"{who}: eps is {eps:g}, must be at most {widest:g}, the width of the box in {norm}{hint}"
        )
    return eps


def logits(who: str, network: Any, x: np.ndarray, *, classes: int | None = None) -> int:
    """Check what a network gives for images, by tracing it alone, and return how many logits there are.

    Args:
      who: the function that was called, for the error.
      network: images -> logits.
      x: images, as `images` returns them.
      classes: how many logits there must be, if known.
    Raises:
      ValueError: in one line, if it is no function, cannot be traced by JAX, or gives anything but (n, k) with
        k >= 2, or another k than `classes`.
    """
    like = jax.ShapeDtypeStruct((min(len(x), 3), *x.shape[1:]), np.float32)
    found = _answer(who, network, like)
    shape = getattr(found, "shape", None)
    if shape is None:
        raise ValueError(
            f"{who}: network gives a {type(found).__name__}, must give one array of logits (n, classes)"
            + ("; of a tuple take the logits: lambda x: network(x)[0]" if isinstance(found, tuple) else "")
        )
    if len(shape) != 2 or shape[0] != like.shape[0] or shape[1] < 2:
        raise ValueError(
            f"{who}: network gives {tuple(shape)} for {like.shape[0]} images, must give ({like.shape[0]}, classes) "
            "with at least two classes" + ("; of one logit z make [0, z]" if shape[-1:] == (1,) else "")
        )
    if not np.issubdtype(found.dtype, np.floating) and found.dtype.name != "bfloat16":
        raise ValueError(f"{who}: network gives {found.dtype}, must give floating-point logits")
    if classes is not None and shape[1] != classes:
        raise ValueError(
            f"{who}: network gives {shape[1]} logits, must give one for each of {classes} classes"
        )
    return int(shape[1])


@contextlib.contextmanager
def reading(path: Any, what: str) -> Iterator[None]:
    """Turn whatever reading a damaged file raises into one line that names the file.

    Args:
      path: of the file.
      what: is wrong, such as "damaged picture".
    Raises:
      ValueError: "<path>: <what> (<reason>)", for any exception inside.
    """
    try:
        yield
    except Exception as error:  # damage shows as any of dozens of kinds
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ValueError(f"{path}: {what} ({reason})") from error


def points(who: str, x: Any, *, eps: Any, lower: Any = -math.inf, upper: Any = math.inf) -> None:
    """Check the points that a search begins at: floats in the box, and a radius that fits them.

    Args:
      who: the function that was called, for the error.
      x: (b, ...) of any rank.
      eps: one radius, or one per point.
      lower, upper: the box, broadcast against x.
    Raises:
      ValueError: in one line, for another dtype or a radius of another shape; where values are known also for points
        that are outside the box or not finite.
    """
    array(who, x, lower=lower, upper=upper)
    if len(x) == 0:
        raise ValueError(f"{who}: x has shape {tuple(x.shape)}, must hold at least one point")
    per_point(who, "eps", eps, len(x))
    edges = known(lower), known(upper)
    if not concrete(x) or edges[0] is None or edges[1] is None or x.size == 0:
        return
    low, high = _ends(x)
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"{who}: x has values that are not finite, from {low:.4g} to {high:.4g}")
    if edges[0].ndim == 0 and edges[1].ndim == 0:
        outside = low < edges[0] - _slack(edges[0]) or high > edges[1] + _slack(edges[1])
    else:
        there = np.asarray(x)
        outside = ((there < edges[0] - _slack(edges[0])) | (there > edges[1] + _slack(edges[1]))).any()
    if outside:
        raise ValueError(
            f"{who}: x ranges from {low:.4g} to {high:.4g}, must lie in the box{_box(lower, upper)}; "
            + ("divide it by 255" if low >= 0 and 1.5 < high <= 255 else "undo the normalisation")
            + ", or pass lower= and upper= to Threat with eps in the same units"
        )


def array(who: str, x: Any, *, lower: Any = None, upper: Any = None) -> None:
    """Check that points are an array of floats (b, ...); known inside jit too.

    Raises:
      ValueError: in one line, if they are not.
    """
    if not isinstance(x, jax.Array | np.ndarray):
        raise ValueError(f"{who}: x is a {type(x).__name__}, must be an array (b, ...)")
    if x.ndim == 0:
        raise ValueError(f"{who}: x has shape (), must be (b, ...)")
    if not jax.dtypes.issubdtype(x.dtype, np.floating):
        hint = "; divide bytes by 255" if x.dtype == np.uint8 else ""
        raise ValueError(f"{who}: x is {x.dtype}, must be floats{_box(lower, upper)}{hint}")


def per_point(who: str, name: str, value: Any, count: int) -> None:
    """Check that a setting is one number, or one per point (b,); its shape is known inside jit too.

    Raises:
      ValueError: in one line, if it is neither.
    """
    if not _numeric(value):
        raise ValueError(f"{who}: {name} is {_shown(value)}, must be a number, or one per point")
    shape = np.shape(value)
    if shape not in ((), (1,), (count,)):
        hint = f": write {name}.reshape(-1)" if math.prod(shape) == count else ""
        raise ValueError(
            f"{who}: {name} has shape {tuple(shape)}, must be a number or ({count},), one per point{hint}"
        )


def classes(who: str, y: Any, count: int) -> Any:
    """Check the labels of a batch as far as they are known, and return them as integers.

    Args:
      who: the function that was called, for the error.
      y: (b,) whole numbers from 0.
      count: how many points there are.
    Raises:
      ValueError: as `labels`; inside jit for another shape or dtype.
    """
    if _readable(y) and count > 0:
        whole = labels(who, y, count=count)
        return y if isinstance(y, jax.Array) and jax.dtypes.issubdtype(y.dtype, np.integer) else whole
    if np.shape(y) != (count,) or not jax.dtypes.issubdtype(y.dtype, np.integer):
        raise ValueError(f"{who}: labels are {y.dtype} of shape {y.shape}, must be integers ({count},)")
    return y


def soft_labels(who: str, y: Any, count: int, *, classes: int | None = None) -> None:
    """Check a distribution over the classes for each point, as far as it is known.

    Args:
      who: the function that was called, for the error.
      y: (b, k), floats.
      count: how many points there are.
      classes: how many logits there are, if known.
    Raises:
      ValueError: in one line, for another shape or dtype, fewer than two classes, and known rows that are negative or
        do not sum to 1.
    """
    wanted = f"({count}, {classes or 'k'})"
    if np.ndim(y) != 2 or len(y) != count or y.shape[1] < 2 or (classes and y.shape[1] != classes):
        raise ValueError(f"{who}: soft labels have shape {np.shape(y)}, must be {wanted}")
    if not jax.dtypes.issubdtype(y.dtype, np.floating):
        raise ValueError(f"{who}: soft labels are {y.dtype}, must be floats that sum to 1 in each row")
    if _readable(y) and y.size:
        rows = np.asarray(y, np.float64)
        if not (rows >= 0).all() or np.abs(rows.sum(axis=1) - 1).max() > 1e-3:
            raise ValueError(
                f"{who}: soft labels run from {rows.min():g} to {rows.max():g} and their rows sum to "
                f"{rows.sum(axis=1).min():g} to {rows.sum(axis=1).max():g}, must be at least 0 and sum to 1"
            )


def is_soft(y: Any) -> bool:
    """Say whether labels are distributions, (b, k) floats, and not classes."""
    return np.ndim(y) == 2 and hasattr(y, "dtype") and jax.dtypes.issubdtype(y.dtype, np.floating)


def answers(who: str, logits: Any, *ys: Any) -> None:
    """Check logits, as they come out of a network, against labels.

    Args:
      who: the function that was called, for the error.
      logits: (b, k); may be traced.
      ys: labels (b,), where there are some.
    Raises:
      ValueError: in one line, for anything but (b, k) with k >= 2, and for known labels outside 0..k-1.
    """
    shape = getattr(logits, "shape", None)
    if shape is None or len(shape) != 2 or shape[1] < 2:
        given = f"a {type(logits).__name__}" if shape is None else f"shape {tuple(shape)}"
        raise ValueError(
            f"{who}: the network gives {given}, must give logits (b, k) with at least two classes"
            + ("; of one logit z make [0, z]" if shape is not None and shape[-1:] == (1,) else "")
        )
    for y in ys:
        found = np.shape(y) if isinstance(y, jax.Array | np.ndarray) else None
        if found != shape[:1]:
            given = f"are a {type(y).__name__}" if found is None else f"have shape {found}"
            raise ValueError(f"{who}: labels {given}, must be {shape[:1]}, one for each row of logits")
        _integers(who, y)
        if _readable(y) and y.size:
            labels(who, y, count=len(y), classes=shape[1])


def batch(who: str, given: Any, *, labelled: bool = True, pixels: bool = False, soft: bool = False) -> None:
    """Check what a loss is given: images with their labels, or a pair of these and OOD images.

    Inside jit it sees shapes and dtypes only; `answers` compares labels with the number of logits.

    Args:
      who: the loss, for the error.
      given: with `image` and `label`, or with `id`, such a batch, and `ood`, images.
      labelled: whether its labels are used.
      pixels: whether there is a label for every pixel, (b, h, w), of which 255 is unknown.
      soft: whether labels may be soft, (b, k), as those of mixed images.
    Raises:
      ValueError: in one line, for images that are no floats or not finite, or labels that are not whole numbers from
        0, one for each image or pixel.
    """
    labelled_part = getattr(given, "id", given)
    image: Any = getattr(labelled_part, "image", None)
    y: Any = getattr(labelled_part, "label", None)
    _batch_images(who, "images", image)
    if hasattr(given, "ood"):
        _batch_images(who, "OOD images", given.ood)
        if given.ood.shape[1:] != image.shape[1:]:
            raise ValueError(
                f"{who}: ID and OOD images have shapes {image.shape} and {given.ood.shape}, must fit"
            )
    if not labelled:
        return
    if is_soft(y) and len(y) == len(image) and not pixels:
        if soft:
            return soft_labels(who, y, len(image))
        if np.shape(y)[1] > 1 and not _readable(y):
            raise ValueError(
                f"{who}: labels are soft, {tuple(y.shape)}, must be classes ({len(image)},) here"
            )
    shape = image.shape[:3] if pixels else image.shape[:1]
    if not isinstance(y, jax.Array | np.ndarray) or y.shape != shape:
        said = f"have shape {tuple(y.shape)}" if hasattr(y, "shape") else f"are a {type(y).__name__}"
        rows = np.ndim(y) == 2 and not pixels and len(y) == len(image)
        hint = "; of one-hot rows take argmax(axis=1)" if rows else ""
        what = "pixel" if pixels else "image"
        raise ValueError(f"{who}: labels {said}, must be {tuple(shape)}, one for each {what}{hint}")
    _integers(who, y)
    if _readable(y) and y.size and int(np.asarray(y).min()) < 0:
        raise ValueError(f"{who}: the smallest label is {int(np.asarray(y).min())}, must be at least 0")


def pixel_labels(who: str, y: Any, shape: Sequence[int], *, unknown: int) -> None:
    """Check the labels of pixels, as far as they are known.

    Args:
      who: the function that was called, for the error.
      y: (b, h, w).
      shape: of the logits, (b, h, w, k).
      unknown: the label of a pixel that has none.
    Raises:
      ValueError: in one line, for another shape or dtype, and for known labels outside 0..k-1.
    """
    if not isinstance(y, jax.Array | np.ndarray) or y.shape != tuple(shape[:-1]):
        raise ValueError(
            f"{who}: labels have shape {np.shape(y)}, must be {tuple(shape[:-1])}, as the logits"
        )
    _integers(who, y)
    if _readable(y):
        there = np.asarray(y)
        there = there[there != unknown]
        labels(who, there, count=len(there), classes=shape[-1])


def group_numbers(who: str, group: Any, *, count: int, most: int) -> None:
    """Check the groups of a batch, as far as they are known; negative ones are none.

    Raises:
      ValueError: in one line, for another shape or dtype, and for known ones from `most` on.
    """
    if not isinstance(group, jax.Array | np.ndarray) or group.shape != (count,):
        raise ValueError(
            f"{who}: groups have shape {np.shape(group)}, must be ({count},), one for each image"
        )
    if not jax.dtypes.issubdtype(group.dtype, np.integer):
        raise ValueError(f"{who}: groups are {group.dtype}, must be integers")
    if _readable(group) and group.size:
        groups(who, "group", group, count=count, most=most)


def image_pair(who: str, first: Any, second: Any) -> None:
    """Check two images of each scene, row by row: floats of one shape.

    Raises:
      ValueError: in one line, if they are not.
    """
    for x in (first, second):
        _batch_images(who, "images", x)
    if first.shape != second.shape:
        raise ValueError(
            f"{who}: images of a pair have shapes {first.shape} and {second.shape}, must be the same"
        )


def _batch_images(who: str, what: str, x: Any) -> None:
    if not isinstance(x, jax.Array | np.ndarray):
        raise ValueError(
            f"{who}: {what} are a {type(x).__name__}, must be an array (b, h, w, c) in a batch with image and label"
        )
    if x.ndim < 2:
        raise ValueError(f"{who}: {what} have shape {x.shape}, must be (b, h, w, c)")
    if not jax.dtypes.issubdtype(x.dtype, np.floating):
        hint = "; of bytes take x.astype('float32') / 255" if x.dtype == np.uint8 else ""
        raise ValueError(f"{who}: {what} are {x.dtype}, must be floats{hint}")
    if _readable(x) and x.size and not all(map(math.isfinite, _ends(x))):
        raise ValueError(f"{who}: {what} have pixels that are not finite")


def _integers(who: str, y: Any) -> None:
    if not jax.dtypes.issubdtype(y.dtype, np.integer):
        raise ValueError(f"{who}: labels are {y.dtype}, must be integers from 0")


def values(who: str, found: Any, count: int) -> None:
    """Check what an objective gives; its shape is known inside jit too.

    Raises:
      ValueError: in one line, for anything but one number per point.
    """
    shape = getattr(found, "shape", None)
    if shape != (count,):
        given = f"a {type(found).__name__}" if shape is None else f"shape {tuple(shape)}"
        raise ValueError(f"{who}: the objective gives {given}, must give one number per point, ({count},)")
    floating(who, "objective", found)


def floating(who: str, what: str, found: Any) -> None:
    """Check that an array that a function gives is of floats: others have no slope.

    Raises:
      ValueError: in one line, if it is not.
    """
    if hasattr(found, "dtype") and not jax.dtypes.issubdtype(found.dtype, np.floating):
        raise ValueError(f"{who}: the {what} gives {found.dtype}, must give floats, which have a slope")


def norm(who: str, given: Any) -> Norm:
    """Check a norm where lengths are needed: linf, l2 or l1, not l0.

    Raises:
      ValueError: in one line, if it is another.
    """
    if not isinstance(given, str) or given not in get_args(Norm):
        raise ValueError(f"{who}: norm is {_shown(given)}, must be one of {', '.join(get_args(Norm))}")
    return cast(Norm, given)


def threat(who: str, given: Any, *, normed: bool = True, l0: bool = False) -> None:
    """Check that a threat is one, with a norm unless any ball will do.

    Args:
      who: the function that was called, for the error.
      given: the threat.
      normed: whether it must have a norm.
      l0: whether that may be l0, which not everything can search.
    Raises:
      ValueError: in one line, if it is not.
    """
    if not all(hasattr(given, name) for name in (*(("norm",) if normed else ()), "eps", "project")):
        raise ValueError(
            f'{who}: threat is {_shown(given)}, must be a robustjax.Threat, such as Threat("linf", 8 / 255)'
        )
    if normed and not l0:
        norm(who, given.norm)


def finite_box(who: str, lower: Any, upper: Any) -> None:
    """Check that the box of a threat is finite, where its edges are known.

    Raises:
      ValueError: in one line, if it is not.
    """
    edges = known(lower), known(upper)
    if any(edge is not None and np.isinf(edge).any() for edge in edges):
        raise ValueError(f"{who}: the box is [{lower}, {upper}], must be finite")


def corruptions(who: str, names: Any, severities: Any, *, known: Sequence[str] | None = None) -> None:
    """Check names of corruptions and their severities.

    Args:
      who: the function or the field, for the error.
      names, severities: what was given.
      known: the names that there are; None if that is not known yet.

    Raises:
      ValueError: in one line, for a name that is not known or given twice, a severity outside (0, 5] or given twice, or
        none of either.
    """
    if unknown := [name for name in names if known and name not in known]:
        raise ValueError(f"{who}: corruption is {unknown[0]!r}, must be one of {', '.join(known or ())}")
    if wrong := [s for s in severities if not 0 < s <= 5]:
        raise ValueError(f"{who}: severity is {wrong[0]:g}, must be above 0 and at most 5")
    for what, given in (("corruptions", names), ("severities", severities)):
        if not len(given):
            raise ValueError(f"{who}: {what} is empty, must name at least one")
        if len(set(given)) < len(given):
            raise ValueError(f"{who}: {what} are {', '.join(map(str, given))}, must be different")


def called(who: str, what: str, function: Any, x: Any) -> Any:
    """Call a function of a user's on points that may be traced.

    Args:
      who: the function that was called, for the error.
      what: it is, such as "network".
      function: x -> anything.
      x: points.
    Raises:
      ValueError: in one line, if it is no function, asks for values that are not known where JAX traces it, or fails.
        A ValueError of its own of one line passes, and so do errors of memory and of the device.
    """
    if not callable(function):
        hint = _adapter(function) if what == "network" else ""
        raise ValueError(
            f"{who}: {what} is a {type(function).__name__}, must be a function of points (b, ...){hint}"
        )
    try:
        return function(x)
    except (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError) as error:
        raise ValueError(
            f"{who}: {what} asks for values while JAX traces it ({type(error).__name__}), must be written in JAX: "
            "jax.numpy where it says numpy, jax.numpy.where where it says if"
        ) from error
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
        if isinstance(error, ValueError) and "\n" not in str(error):
            raise
        raise ValueError(
            f"{who}: {what} fails on points of shape {np.shape(x)}, which JAX traces: {type(error).__name__}: "
            f"{_first_line(error)}{_adapter(function) if what == 'network' else ''}"
        ) from error


def setting(
    who: str,
    name: str,
    value: Any,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
) -> None:
    """Check a number that may be swept, as far as it is known.

    Args:
      who, name: the function and its setting, for the error.
      value: a number or an array; traced values pass.
      least, above, most, below: bounds, inclusive and not.
    Raises:
      ValueError: in one line, for what is no number, NaN or out of bounds.
    """
    if not _numeric(value):
        raise ValueError(f"{who}: {name} is {_shown(value)}, must be a number")
    there = known(value)
    if there is None:
        return
    inside = ~np.isnan(there)
    for bound, passes in (
        (least, np.greater_equal), (above, np.greater), (most, np.less_equal), (below, np.less),
    ):  # fmt: skip
        if bound is not None:
            inside &= passes(there, bound)
    if not inside.all():
        lows = (
            [f"at least {least:g}"]
            if least is not None
            else [f"above {above:g}"]
            if above is not None
            else []
        )
        highs = (
            [f"at most {most:g}"] if most is not None else [f"below {below:g}"] if below is not None else []
        )
        shown = value if there.ndim == 0 else there[~inside].ravel()[0]
        raise ValueError(f"{who}: {name} is {shown}, must be {' and '.join(lows + highs) or 'a number'}")


def number(
    who: str,
    name: str,
    value: Any,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
) -> None:
    """Check one finite number that may be swept, of Python, NumPy or JAX; of a traced one only that it is one.

    Args:
      who, name, value, least, above, most, below: as in `setting`.
    Raises:
      ValueError: in one line, for what is no number, no single one, not finite or out of bounds.
    """
    if _numeric(value) and np.shape(value) != ():
        raise ValueError(f"{who}: {name} has shape {np.shape(value)}, must be one number")
    setting(who, name, value, least=least, above=above, most=most, below=below)
    there = known(value)
    if there is not None and not np.isfinite(there):
        raise ValueError(f"{who}: {name} is {_shown(value)}, must be finite")


def is_zero(value: Any) -> bool:
    """Say whether a number is known to be 0; a traced one is not."""
    there = known(value)
    return there is not None and not there.any()


def count(who: str, name: str, value: Any, *, least: int = 1, most: int | None = None) -> None:
    """Check a number of things.

    Raises:
      ValueError: in one line, if it is no whole number, too small or too large.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"{who}: {name} is {_shown(value)}, must be a whole number, at least {least}")
    if most is not None and value > most:
        raise ValueError(f"{who}: {name} is {value}, must be at most {most}")


def votes(who: str, network: Any, like: Any, *, classes: int) -> None:
    """Check what a classifier, or a segmenter, gives for noisy images: logits of as many classes as are counted.

    Args:
      who: the function that was called, for the error.
      network: (b, ...) -> (b, classes), or (b, h, w, classes).
      like: noisy images, or their shape.
      classes: how many classes are counted.
    Raises:
      ValueError: in one line, if it is no function, cannot be traced by JAX, or gives other logits.
    """
    found = _answer(who, network, like)
    shape = getattr(found, "shape", None)
    if shape is None or len(shape) < 2 or shape[0] != like.shape[0] or shape[-1] != classes:
        given = type(found).__name__ if shape is None else tuple(shape)
        raise ValueError(
            f"{who}: network gives {given} for {like.shape[0]} images, must give ({like.shape[0]}, ..., {classes}): "
            f"one array with as many logits as classes, which is {classes}"
        )
    if not np.issubdtype(found.dtype, np.floating) and found.dtype.name != "bfloat16":
        raise ValueError(f"{who}: network gives {found.dtype}, must give floating-point logits")


def callable_network(who: str, network: Any) -> None:
    """Check that a network can be called.

    Raises:
      ValueError: in one line, if it cannot.
    """
    if not callable(network):
        hint = _adapter(network) or (
            "; of a Model and its weights make robustjax.Network(model, params, state)"
            if hasattr(network, "apply")
            else ""
        )
        raise ValueError(
            f"{who}: network is a {type(network).__name__}, must be a function from images to logits{hint}"
        )


def _answer(who: str, network: Any, like: Any) -> Any:
    """Ask for the shape of what a network gives, without running it."""
    callable_network(who, network)
    try:
        return jax.eval_shape(network, like)
    except Exception as error:
        raise ValueError(
            f"{who}: network fails on images of shape {like.shape}, which JAX traces: {type(error).__name__}: "
            f"{_first_line(error)}; it must be written in JAX, for (n, height, width, channels)"
            + (_adapter(network) or _mend(network, like, error))
        ) from error


def examples(who: str, x: Any, *, lower: float = -math.inf, upper: float = math.inf) -> None:
    """Check images, or points of another space, of any rank; traced ones pass.

    Args:
      who: the function that was called, for the error.
      x: (n, ...) floats in the box.
      lower, upper: the box.
    Raises:
      ValueError: in one line, for bytes and other integers, no example, or values outside the box or not finite.
    """
    if not _readable(x):
        return
    if not isinstance(x, jax.Array | np.ndarray):
        raise ValueError(f"{who}: images are a {type(x).__name__}, must be an array (n, ...)")
    x = np.asarray(x)
    if x.ndim < 1 or len(x) == 0:
        raise ValueError(f"{who}: images have shape {x.shape}, must be (n, ...) with at least one")
    if x.dtype.kind != "f" and x.dtype.name != "bfloat16":
        hint = "; of bytes take x / 255" if x.dtype == np.uint8 else ""
        raise ValueError(f"{who}: images are {x.dtype}, must be floats{hint}")
    if bad := int((~np.isfinite(x)).reshape(len(x), -1).any(axis=1).sum()):
        raise ValueError(f"{who}: {bad} images have values that are not finite")
    low, high = float(x.min()), float(x.max())
    if low < lower - 1e-6 or high > upper + 1e-6:
        raise ValueError(
            f"{who}: images range from {low:.4g} to {high:.4g}, must lie in [{lower:g}, {upper:g}]; scale them, or "
            "give the box that they are from as lower= and upper="
        )


def positive(who: str, name: str, value: Any) -> None:
    """Check that a setting is a number above 0 and finite; a traced one passes.

    Raises:
      ValueError: in one line, if it is not.
    """
    if concrete(value) and not (_number(value) and math.isfinite(value) and value > 0):
        raise ValueError(f"{who}: {name} is {_shown(value)}, must be a number above 0")


def not_negative(who: str, name: str, value: Any) -> None:
    """Check that a setting is a number of at least 0 and finite; a traced one passes.

    Raises:
      ValueError: in one line, if it is not.
    """
    if concrete(value) and not (_number(value) and math.isfinite(value) and value >= 0):
        raise ValueError(f"{who}: {name} is {_shown(value)}, must be a number, at least 0")


def share(who: str, name: str, value: Any) -> None:
    """Check that a setting is a number inside (0, 1); a traced one passes.

    Raises:
      ValueError: in one line, if it is not.
    """
    if concrete(value) and not (_number(value) and 0 < value < 1):
        raise ValueError(f"{who}: {name} is {_shown(value)}, must be in (0, 1)")


def folder(who: str, out: Any) -> None:
    """Check the folder that results go to: a path, or None; not the path of a file.

    Raises:
      ValueError: in one line, if it is not.
    """
    if out is None:
        return
    if not isinstance(out, str | os.PathLike) or not str(out):
        raise ValueError(f"{who}: out is {_shown(out)}, must be the path of a folder, or None")
    if os.path.exists(out) and not os.path.isdir(out):
        raise ValueError(f"{who}: out is {out}, which is a file, must be a folder")


def seed(who: str, value: Any) -> None:
    """Check a seed of random numbers: a whole number that 32 bits hold.

    Raises:
      ValueError: in one line, if it is not.
    """
    count(who, "seed", value, least=0, most=2**32 - 1)


def _number(value: Any) -> bool:
    """Say whether a value is one real number, of Python, NumPy or JAX."""
    if isinstance(value, bool | str | bytes) or value is None:
        return False
    array = np.asarray(value)
    return array.ndim == 0 and (array.dtype.kind in "iuf" or array.dtype.name == "bfloat16")


def _numeric(value: Any) -> bool:
    """Say whether a value is a number or an array of real numbers, known or traced."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.ndarray | np.generic | jax.Array):
        return False
    dtype = getattr(value, "dtype", np.dtype(float))
    return jax.dtypes.issubdtype(dtype, np.integer) or jax.dtypes.issubdtype(dtype, np.floating)


def _shown(value: Any) -> str:
    """Write a value in one short line."""
    text = " ".join(repr(value.item() if isinstance(value, np.generic) else value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def score(who: str, score_fn: Any, x: np.ndarray) -> None:
    """Check what a score of a detector gives for images.

    Args:
      who: the function that was called, for the error.
      score_fn: images -> (n,) scores, larger on in-distribution images.
      x: images, as `images` returns them.
    Raises:
      ValueError: in one line, if it is no function, cannot be traced by JAX, or gives anything but one float an image.
    """
    if not callable(score_fn):
        raise ValueError(
            f"{who}: score is a {type(score_fn).__name__}, must be a function from images to scores, or a Network"
        )
    like = jax.ShapeDtypeStruct((min(len(x), 3), *x.shape[1:]), np.float32)
    try:
        found: Any = jax.eval_shape(score_fn, like)
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"{who}: score fails on images of shape {like.shape}, which JAX traces: {type(error).__name__}: {first}; "
            "it must be written in JAX, for (n, height, width, channels)"
        ) from error
    shape = getattr(found, "shape", None)
    if shape != like.shape[:1]:
        hint = "; of logits take .max(axis=-1), or pass a Network" if shape and len(shape) == 2 else ""
        raise ValueError(
            f"{who}: score gives {type(found).__name__ if shape is None else tuple(shape)} for {like.shape[0]} images, "
            f"must give ({like.shape[0]},), one number an image{hint}"
        )
    if not np.issubdtype(found.dtype, np.floating) and found.dtype.name != "bfloat16":
        raise ValueError(f"{who}: score gives {found.dtype}, must give floating-point numbers")


def scores(who: str, score_fn: Any, x: np.ndarray, *, lower: float = 0.0, upper: float = 1.0) -> None:
    """Try a score on a few images, spread evenly over a set, twice, and once beside other images.

    Args:
      who: the function that was called, for the error.
      score_fn: images -> (n,), which passed `score`.
      x, lower, upper: all images and their box.
    Raises:
      ValueError: in one line, if the score of an image depends on the other images in its batch, or if scores are NaN
        or infinite for every image.
    """
    few, others = _beside(x, lower, upper)
    first, again, changed = (
        np.asarray(score_fn(jnp.asarray(batch)), np.float32) for batch in (few, few, others)
    )
    if not np.isfinite(first).any():
        raise ValueError(
            f"{who}: score gives NaN or infinity for each of {len(first)} images, must give finite numbers"
        )
    scale, half = float(np.abs(_finite(first)).max()), (len(few) + 1) // 2
    random = float(np.abs(_finite(first) - _finite(again)).max()) > SPREAD * scale
    moved = float(np.abs(_finite(first[:half]) - _finite(changed[:half])).max())
    if moved > MATES * scale and not random:
        raise ValueError(
            f"{who}: score of an image changes by up to {moved:.3g} when other images in its batch change; must not "
            "depend on them: BatchNorm in train mode? put the network in evaluation mode"
        )


def finite(who: str, what: str, values: Any) -> None:
    """Check that all values are finite, where they are known.

    Args:
      who: the function that was called, for the error.
      what: what the rows are, such as "features".
      values: (n, ...).
    Raises:
      ValueError: in one line, if some are NaN or infinite.
    """
    if not _readable(values):
        return
    there = np.asarray(values, np.float64)
    bad: np.ndarray = np.any(~np.isfinite(there.reshape(len(there), -1)), axis=1)
    if bad.any():
        raise ValueError(
            f"{who}: {int(bad.sum())} of {len(bad)} {what} hold NaN or infinity, the first is number "
            f"{int(bad.argmax())}; all must be finite"
        )


def rows(who: str, what: str, values: Any) -> np.ndarray:
    """Check what a detector is fitted to, (n, d) of finite numbers and not empty, and return it as float64.

    Args:
      who: the function that was called, for the error.
      what: the rows are, such as "features" or "logits".
      values: (n, d).
    Raises:
      ValueError: in one line, for another rank, no row or column, or values that are no finite numbers.
    """
    found = _read(who, what, values)
    if found.ndim != 2 or 0 in found.shape:
        raise ValueError(f"{who}: {what} are {found.shape}, must be (n, d), not empty")
    if found.dtype.kind not in "biuf" and found.dtype.name != "bfloat16":
        raise ValueError(f"{who}: {what} are {found.dtype}, must be numbers")
    found = found.astype(np.float64)
    finite(who, what, found)
    return found


def last_layer(who: str, width: int, kernel: Any, bias: Any) -> tuple[np.ndarray, np.ndarray]:
    """Check kernel and bias of a last layer that reads features of a width, and return them as float64.

    Args:
      who: the function that was called, for the error.
      width: of the features, d.
      kernel, bias: (d, k) and (k,), of at least two classes.
    Raises:
      ValueError: in one line, for other shapes, fewer than two classes, or values that are not finite.
    """
    kernel, bias = (_read(who, "the last layer's numbers", a) for a in (kernel, bias))
    if kernel.shape != (width, *bias.shape) or bias.ndim != 1 or len(bias) < 2:
        raise ValueError(
            f"{who}: kernel {kernel.shape} and bias {bias.shape} must be ({width}, k) and (k,), of at least 2 "
            f"classes, for {width} features"
        )
    kernel, bias = kernel.astype(np.float64), bias.astype(np.float64)
    for what, values in (("rows of the kernel", kernel), ("biases", bias)):
        finite(who, what, values)
    return kernel, bias


def hits(who: str, what: str, values: Any) -> np.ndarray:
    """Check that every value is 0 or 1, or True or False, and return them as float64.

    Raises:
      ValueError: in one line, if not.
    """
    found = np.asarray(values)
    if found.dtype.kind not in "biuf" or not ((found == 0) | (found == 1)).all():
        raise ValueError(f"{who}: {what} must be 0 or 1 for every example, {_range(found)}")
    return found.astype(np.float64)


def groups(who: str, what: str, values: Any, *, count: int, most: int | None = None) -> np.ndarray:
    """Check whole numbers that name a group or class for each example; negative ones name none.

    Args:
      who, what: the function that was called and what they are, for the error.
      values: (count,).
      count: how many examples there are.
      most: how many groups there are, if known.
    Raises:
      ValueError: in one line, if the length differs, or they are no whole numbers or too large.
    """
    found = np.asarray(values)
    if found.shape != (count,):
        raise ValueError(f"{who}: {what} has shape {found.shape}, must be ({count},), one for each example")
    if found.dtype.kind not in "iu" and not (found.dtype.kind == "f" and (found == np.rint(found)).all()):
        raise ValueError(f"{who}: {what} is {found.dtype}, must be whole numbers")
    if most is not None and found.size and found.max() >= most:
        raise ValueError(f"{who}: the largest {what} is {int(found.max())}, must be below {most}")
    return found.astype(np.int64)


def _read(who: str, what: str, values: Any) -> np.ndarray:
    """Make a NumPy array, also of tensors of other libraries on the host."""
    try:
        return np.asarray(values)
    except (
        Exception
    ) as error:  # of lists of unequal lengths, of PyTorch's tensors on a GPU or with a gradient
        raise ValueError(
            f"{who}: {what} are a {type(values).__name__}, must be an array that NumPy can read: {_first_line(error)}"
        ) from error


def _range(values: np.ndarray) -> str:
    if values.dtype.kind not in "biuf" or not values.size:
        return f"they are {values.dtype}"
    return f"they range from {values.min():g} to {values.max():g}"


def evenly(count: int, most: int = PROBED) -> np.ndarray:
    """Number at most so many examples, spread evenly over a set: the first, the last and those between."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


def network(
    who: str, logits_fn: Any, x: np.ndarray, *, lower: float = 0.0, upper: float = 1.0
) -> tuple[Flag, ...]:
    """Try a network on a few images, taken evenly over a set, correctly classified or not.

    It is called as it is, not compiled: a compiled program would replay what Python drew when it was traced.

    Args:
      who: the function that was called, for the error.
      logits_fn: images -> logits, which passed `logits`.
      x: all images, as `images` returns them.
      lower, upper: the box; images of its corners stand beside the images drawn to see whether that matters.
    Returns:
      Flags: random outputs, constant outputs, probabilities, NaN or infinite logits.
    Raises:
      ValueError: in one line, if the logits of an image depend on the other images in its batch, or if they are NaN or
        infinite for every image.
    """
    first, spread = probed(who, "network gives other logits", logits_fn, x, lower=lower, upper=upper)
    unsound = ~sound(first)
    if unsound.all():
        raise ValueError(
            f"{who}: network gives NaN or infinite logits for each of {len(first)} images, must give finite ones; "
            "look for overflow (float16), log or division by 0, and weights that are NaN"
        )
    random, scale = spread > SPREAD, float(np.abs(_finite(first)).max())
    constant = len(x) > 1 and not random and float(np.ptp(_finite(first), axis=0).max()) <= 1e-6 * scale
    return (
        Flag(
            "random outputs",
            random,
            f"two passes of the same images differ by up to {spread:.2g}, so attacks keep images by luck; attack the "
            'mean of passes: attacks.adaptive.averaged, with suite "rand"'
            if random
            else "two passes of the same images agree",
            {"spread": spread},
        ),
        Flag(
            "constant outputs",
            constant,
            f"the logits of {len(first)} images are the same" if constant else "logits differ between images",
            {},
        ),
        probabilities(first),
        Flag(
            "NaN or infinite logits",
            bool(unsound.any()),
            f"NaN or infinite at {int(unsound.sum())} of {len(first)} images; they count as misclassified"
            if unsound.any()
            else "logits are finite",
            {"share": float(unsound.mean())},
        ),
    )


def probed(
    who: str, what: str, function: Any, x: np.ndarray, *, lower: float = 0.0, upper: float = 1.0
) -> tuple[np.ndarray, float]:
    """Run a function on a few images, spread evenly over a set, twice, and once beside other images.

    Args:
      who: the function that was called, for the error.
      what: that is said of one whose answer depends on the batch, such as "network gives other logits".
      function: images -> (n, ...).
      x, lower, upper: all images and their box.
    Returns:
      What it gives, (m, ...), and by how much two passes differ, answers scaled to length 1.
    Raises:
      ValueError: in one line, if the answer for an image depends on the other images in its batch.
    """
    few, others = _beside(x, lower, upper)
    half = (len(few) + 1) // 2
    first, again, changed = (
        np.asarray(function(jnp.asarray(batch)), np.float32) for batch in (few, few, others)
    )
    spread = float(np.linalg.norm(_unit(first) - _unit(again), axis=-1).max())
    scale = float(np.abs(_finite(first)).max())
    moved = float(np.abs(_finite(first[:half]) - _finite(changed[:half])).max())
    if moved > MATES * scale and spread <= SPREAD:
        raise ValueError(
            f"{who}: {what} for an image, by up to {moved:.3g}, when other images in its batch change; must not depend "
            "on them: BatchNorm in train mode? put the network in evaluation mode"
        )
    return first, spread


def _beside(x: np.ndarray, lower: float, upper: float) -> tuple[np.ndarray, np.ndarray]:
    """Take a few images, and the first half of them beside images of the corners of the box."""
    few = x[evenly(len(x))]
    few = np.repeat(few, 2, axis=0) if len(few) == 1 else few
    half = (len(few) + 1) // 2
    others = few.copy()
    others[half::2], others[half + 1 :: 2] = lower, upper
    return few, others


def answered(clean: np.ndarray) -> Flag:
    """Count the images, of all that were evaluated, without an answer.

    Args:
      clean: (n,) predictions for the images themselves; -1 where the logits are not `sound`.
    """
    count = int((clean < 0).sum())
    says = f"NaN or infinite at {count} of {len(clean)} images; they count as misclassified"
    return Flag(
        "NaN or infinite logits",
        count > 0,
        says if count else "logits are finite",
        {"share": count / len(clean)},
    )


def sound(logits: np.ndarray) -> np.ndarray:
    """Say which rows decide for a class: (n,). Minus infinity is an answer, a class ruled out, unless all are."""
    return ~(np.isnan(logits) | (logits == np.inf)).any(axis=-1) & ~(logits == -np.inf).all(axis=-1)


def joined(before: tuple[Flag, ...], after: tuple[Flag, ...]) -> tuple[Flag, ...]:
    """Join flags; of two of one name keep the later one, unless only the earlier one is raised."""
    found = {flag.name: flag for flag in before}
    for flag in after:
        if flag.raised or not (flag.name in found and found[flag.name].raised):
            found[flag.name] = flag
    return tuple(found.values())


def finite_weights(who: str, tree: Any) -> None:
    """Check the arrays of a pytree, such as the weights of a network.

    Args:
      who: what they are of, for the error.
      tree: of concrete arrays.
    Raises:
      ValueError: in one line, naming the first array that holds NaN or infinite values, and how many.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        values = np.asarray(leaf, np.float32) if jnp.issubdtype(leaf.dtype, jnp.floating) else np.zeros(1)
        if bad := int((~np.isfinite(values)).sum()):
            name = "/".join(str(getattr(key, "key", getattr(key, "name", key))) for key in path)
            raise ValueError(f"{who}: {name} holds {bad} values that are NaN or infinite, must be finite")


def probabilities(logits: np.ndarray) -> Flag:
    """Look for a softmax at the end: all outputs in [0, 1] with rows that add up to 1.

    Cross-entropy of probabilities, and its gradient, is almost flat; DLR is not made for them either.

    Reference: AutoAttack's check, with a wider tolerance, see `NEAR`.
    """
    known = np.where(np.isfinite(logits), logits, 0)
    total = float(np.abs(known.sum(axis=-1) - 1).max())
    low, high = float(known.min()), float(known.max())
    raised = low > -NEAR and high < 1 + NEAR and total < NEAR
    says = (
        "outputs look like probabilities, on which attacks are weaker; give the logits, or their logarithm"
        if raised
        else "outputs are no probabilities"
    )
    return Flag("probabilities", raised, says, {"smallest": low, "largest": high, "row sum from 1": total})


def class_counts(y: np.ndarray, classes: int) -> Flag:
    """Look for a set of labels that lacks classes, or that one class fills, by more than chance.

    Of n labels drawn evenly from k classes, k (1 - (1 - 1/k)^n) classes are expected; fewer than 4/5 of them are
    too few. A class is too large with more than twice n/k, or 4/5 of two classes, and five standard deviations.

    Args:
      y: (n,) labels, at least one.
      classes: how many logits there are.
    """
    counts = np.bincount(y, minlength=classes)
    present, n = int((counts > 0).sum()), len(y)
    expected = classes * (1 - (1 - 1 / classes) ** n)
    mean, largest = n / classes, int(counts.max())
    lacking = present < 0.8 * expected - 1 or (present == 1 and n >= 8)
    full = largest > min(2 * mean, 0.8 * n) + 5 * math.sqrt(mean) + 3
    says = f"{n} labels name {present} of {classes} classes"
    if lacking:
        says += "; the first images of a set sorted by class? take images of every class"
    elif full:
        says += f", and {100 * largest / n:.3g} % of them class {int(counts.argmax())}"
    evidence = {"classes": float(present), "share of the largest": largest / n}
    return Flag("class counts", lacking or full, says, evidence)


def _finite(values: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(values), values, 0)


def _unit(values: np.ndarray) -> np.ndarray:
    known = _finite(values).reshape(len(values), -1)
    return known / (np.linalg.norm(known, axis=-1, keepdims=True) + 1e-10)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def _adapter(network: Any) -> str:
    """Name the adapter of another library's network."""
    homes = [f"{cls.__module__}." for cls in (type(network), *type(network).__mro__)]
    for library, adapter in ADAPTERS.items():
        if any(home.startswith(f"{library}.") for home in homes):
            weights = ", which with its weights makes a robustjax.Network" if adapter in APART else ""
            return f"; of a {library} network make robustjax.{adapter}(network){weights}"
    return ""


def _mend(network: Any, like: jax.ShapeDtypeStruct, error: Exception) -> str:
    """Guess what a function that fails on NHWC images is in want of."""
    if str(error).startswith("from_"):  # an adapter, which has said how it calls the network
        return ""
    if isinstance(error, jax.errors.TracerArrayConversionError):
        return "; write jax.numpy where it says numpy, or give a torch module to robustjax.from_torch"
    n, h, w, c = like.shape
    try:
        jax.eval_shape(network, jax.ShapeDtypeStruct((n, c, h, w), like.dtype))
    except Exception:
        return ""
    return "; it takes channels first: pass lambda x: network(x.transpose(0, 3, 1, 2))"


def concrete(value: Any) -> bool:
    """Say whether a value is known, not traced."""
    return not isinstance(value, Tracer)


def _readable(value: Any) -> bool:
    """Say whether a value is known in this process: not traced, not spread over other hosts."""
    return concrete(value) and (not isinstance(value, jax.Array) or value.is_fully_addressable)


def known(value: Any) -> np.ndarray | None:
    """Return a number or an array of numbers, where its value is known here; None elsewhere."""
    here = isinstance(value, jax.Array) and concrete(value)
    here = here and value.is_fully_addressable and not value.is_deleted()
    if not (here or isinstance(value, int | float | np.ndarray | np.generic)):
        return None
    there = np.asarray(value)
    return there.astype(np.float64) if there.dtype.kind in "iuf" or there.dtype.name == "bfloat16" else None


def _ends(x: Any) -> tuple[float, float]:
    """Find the least and the largest value of known points, NaN where one is; inside jit when it is traced."""
    with jax.ensure_compile_time_eval():
        low, high = jax.device_get((x.min(), x.max()))
    return float(low), float(high)


def _slack(edge: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(edge), 1e-6 * np.maximum(1.0, np.abs(edge)), 0.0)


def _box(lower: Any, upper: Any) -> str:
    low, high = known(lower), known(upper)
    return (
        f" [{low:g}, {high:g}]" if low is not None and high is not None and low.ndim == high.ndim == 0 else ""
    )
