"""Weights of others: PyTorch checkpoints of public model zoos, read without PyTorch and without running them.

    net = weights.imported("wong.pt", architecture="preact_resnet18_wong", classes=10, **normalisation.CIFAR10)
    net.logits_fn(images)

The architecture is recognised by names and shapes (see `recognition`). Two things a file does not tell, and the caller
must know: which of several networks with the same layers it is of (see `published`), and, unless it stores them, the
constants by which images are normalised.
"""

import difflib
import hashlib
import inspect
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robustjax.models import layernames, layouts, recognition, tensorfiles
from robustjax.models.architectures import ARCHITECTURES as ARCHITECTURES
from robustjax.models.architectures import architecture as factory_of
from robustjax.models.layers import DType
from robustjax.models.published_mixtures import stored as stored_constants
from robustjax.types import Model, Network, Params, State

Path = str | os.PathLike[str]
Tensors = Mapping[str, np.ndarray]
SHOWN = 3  # names of a kind in an error
COLLECTIONS = ("batch_stats", "mean_sparse")


def imported(
    path: Path | Sequence[Path],
    *,
    architecture: str | None = None,
    classes: int,
    shape: tuple[int, ...] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    entry: str | None = None,
    dtype: DType = jnp.float32,
) -> Network:
    """Build a network with the weights of a checkpoint.

    Args:
      path: of a file of safetensors or of `torch.save`; several are the members of an ensemble.
      architecture: a name of `architectures`; None to recognise it. For other networks call `load`, `constants` and
        `into`.
      classes: number of logits.
      shape: of one image, (h, w, c); by default that of the architecture.
      mean, std: by which the network normalises images in [0, 1]. May be left out where the file stores them,
        as some zoos do, and for ImageNet, whose constants are the default.
      entry: which state dict to take from a file with several, such as "ema".
      dtype: what the network computes in.
    Returns:
      The network; `about` has the file's name and SHA-256, the architecture, mean and std.
    Raises:
      ValueError: in one line, if the file cannot be read or does not fit, holds NaN or infinite values, if the
        constants are unknown or other than those it stores, or if the architecture is not told by the weights.
    """
    paths = [path] if isinstance(path, str | os.PathLike) else list(path)
    tensors, stored = _opened(paths, entry, 3 if shape is None else shape[-1])
    name = architecture or one_of(recognition.recognised(_shapes(tensors)), os.fspath(paths[0]))
    factory = factory_of(name)
    defaults: dict[str, Any] = {k: p.default for k, p in inspect.signature(factory).parameters.items()}
    size: tuple[int, ...] = defaults["shape"] if shape is None else shape
    if shape is None and size[-1] != 3:
        tensors, stored = _opened(paths, entry, size[-1])
    given = None if mean is None or std is None else (tuple(mean), tuple(std))
    if (mean is None) != (std is None):
        raise ValueError("imported: one of mean and std is given, must be both or neither")
    settings: dict[str, Any] = {}
    tensors = settled(name, tensors)
    if "mean" in defaults:
        settings = _constants(os.fspath(paths[0]), given, stored, defaults, size[-1])
    elif stored or (given and given != ((0.0,) * size[-1], (1.0,) * size[-1])):
        raise ValueError(
            f"imported: mean and std are {given or stored}, but {name} normalises by its own: leave them out"
        )
    model = factory(classes=classes, shape=size, dtype=dtype, **settings)
    params, state = into(model, tensors)
    files = [os.path.basename(at) for at in paths]
    about = {
        "checkpoint": ", ".join(files),
        "sha256": ", ".join(map(fingerprint, paths)),
        "architecture": name,
        "mean": settings.get("mean"),
        "std": settings.get("std"),
    }
    return Network(model, params, state, about, f"{name} of {files[0]}")


def one_of(names: Sequence[str], file: str) -> str:
    """Take the one architecture that a file may be of.

    Raises:
      ValueError: in one line, if there is none, or several that its tensors fit.
    """
    if len(names) == 1:
        return names[0]
    if not names:
        raise ValueError(
            f"imported: {file} is of no network that is known here; architecture must be one of "
            f"{', '.join(ARCHITECTURES)}"
        )
    raise ValueError(
        f"imported: the tensors of {file} fit {' and '.join(names)}, which compute different things: name one "
        "as architecture"
    )


def candidates(
    path: Path | Sequence[Path], *, entry: str | None = None, channels: int = 3
) -> tuple[str, ...]:
    """Name the architectures that the tensors of a checkpoint fit; several if weights do not tell them apart."""
    paths = [path] if isinstance(path, str | os.PathLike) else list(path)
    return recognition.recognised(_shapes(_opened(paths, entry, channels)[0]))


def _opened(
    paths: Sequence[Path], entry: str | None, channels: int
) -> tuple[dict[str, np.ndarray], tuple[tuple[float, ...], tuple[float, ...]] | None]:
    """Read the tensors of a file, or of all members of an ensemble, and the constants that they store."""
    if not paths:
        raise ValueError("imported: path is empty, must be one file or the files of an ensemble")
    if len(paths) == 1:
        stored, tensors = constants(load(paths[0], entry=entry), channels=channels)
        return tensors, stored
    every = [constants(load(path, entry=entry), channels=channels) for path in paths]
    tensors = {f"models.{i}.{name}": v for i, (_, of) in enumerate(every) for name, v in of.items()}
    if all(stored == every[0][0] for stored, _ in every):
        return tensors, every[0][0]
    if not any(name.startswith("mix") for name in recognition.recognised(_shapes(tensors))):
        raise ValueError(
            "imported: the members of the ensemble store different mean and std, must be the same"
        )
    for i, (stored, _) in enumerate(every):
        for kind, value in zip(("mean", "std"), stored or (), strict=False):
            tensors[f"models.{i}.{kind}"] = np.asarray(value, np.float32)
    return tensors, None


def settled(architecture: str, tensors: Tensors) -> dict[str, np.ndarray]:
    """Take the constants of a mixture out of its tensors; those of other networks stay as they are.

    Args:
      architecture: its name, see `architectures`.
      tensors: as from `load`.
    Raises:
      ValueError: in one line, if a constant is another than that of the architecture.
    """
    rest = dict(tensors)
    for name, expected in stored_constants(architecture).items():
        if (value := rest.pop(name, None)) is None or expected is None:
            continue
        if not np.allclose(np.ravel(value), expected, rtol=1e-5, atol=1e-7):
            raise ValueError(
                f"settled: {name} is {np.ravel(value).tolist()}, must be {expected} for {architecture}"
            )
    return rest


def _constants(
    file: str, given: Any, stored: Any, defaults: Mapping[str, Any], channels: int
) -> dict[str, tuple[float, ...]]:
    if given and stored and not np.allclose(given, stored, rtol=1e-5, atol=0):
        raise ValueError(
            f"imported: mean and std are {given}, but the file was trained with {stored}: leave them out"
        )
    chosen = stored or given or (defaults["mean"] and (defaults["mean"], defaults["std"]))
    if not chosen:
        raise ValueError(
            f"imported: {file} stores no mean and std, must be given: those of its training, "
            f"or mean {(0,) * channels} and std {(1,) * channels} if the network takes images in [0, 1] as they are"
        )
    return {"mean": chosen[0], "std": chosen[1]}


def _shapes(tensors: Tensors) -> dict[str, tuple[int, ...]]:
    return {name: value.shape for name, value in tensors.items()}


def load(path: Path, *, entry: str | None = None) -> dict[str, np.ndarray]:
    """Read the tensors of a checkpoint, without running anything in it.

    Reads .safetensors and what `torch.save` writes, in its zip and its older format. The state dict may lie
    within other dictionaries, next to optimisers or settings of any class, which are passed over. Wrappers
    such as "module." are stripped off the names, and what the network never reads is dropped.

    Args:
      path: of the file.
      entry: which state dict to take from a file with several, by its key.
    Returns:
      From name to array, read-only, in PyTorch's order of dimensions.
    Raises:
      ValueError: in one line, if the file cannot be read, or calls for code to be run.
    """
    tensors = tensorfiles.state_dict(path, entry)
    return {name: tensors[full] for name, full in layernames.bare(tensors).items()}


def fingerprint(path: Path) -> str:
    """Compute the SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def constants(
    tensors: Tensors, *, channels: int = 3
) -> tuple[tuple[tuple[float, ...], tuple[float, ...]] | None, dict[str, np.ndarray]]:
    """Take the constants of normalisation out of a checkpoint: (mean, std) or None, and the other tensors.

    Raises:
      ValueError: if there are several, one without the other, or not one number or one for each channel.
    """
    rest, found = dict(tensors), []
    for kind, pattern in (("mean", layernames.MEAN), ("std", layernames.STD)):
        values = [
            np.asarray(rest.pop(name), np.float32).ravel() for name in list(rest) if pattern.search(name)
        ]
        if any(value.size not in (1, channels) or (value != values[0]).any() for value in values):
            raise ValueError(f"constants: the file stores {kind} {values}, must be one number a channel")
        found += [tuple(np.broadcast_to(value, channels).tolist()) for value in values[:1]]
    if len(found) == 1:
        raise ValueError("constants: the file stores one of mean and std, must be both or neither")
    return ((found[0], found[1]) if found else None), rest


def into(model: Model, tensors: Tensors) -> tuple[Params, State]:
    """Arrange tensors of PyTorch as the parameters and state of a network.

    Args:
      model: one of `architectures`.
      tensors: as from `load`, without `constants`; named as one of `layouts` does.
    Returns:
      What `model.init` returns, with the values of the file.
    Raises:
      ValueError: in one line, unless every parameter and running statistic has its tensor, of its shape, and
        every tensor is used; if a value is NaN or infinite, or becomes so in the network's type.
    """
    leaves, tree = jax.tree_util.tree_flatten_with_path(jax.eval_shape(model.init, jax.random.key(0)))
    called: dict[int, list[str]] = {}
    for group in _members(leaves).values():  # each by the layout that names most of its leaves
        named = ([_called(layout, leaves[i][0]) for i in group] for layout in layouts.LAYOUTS)
        best = min(named, key=lambda names: sum(not any(name in tensors for name in of) for of in names))
        called |= dict(zip(group, best, strict=True))
    values, missing, misfits, used = [], [], [], set()
    for (path, leaf), names in zip(leaves, (called[i] for i in range(len(leaves))), strict=True):
        name = next((name for name in names if name in tensors), None)
        if name is None:
            missing.append(names[0] if names else "/".join(key.key for key in path[1:]))
            continue
        used.add(name)
        value = _channels_last(path, np.asarray(tensors[name]), leaves)
        if (
            leaf.ndim == 2 and value.ndim == 4 and value.shape[2:] == (1, 1)
        ):  # a 1x1 convolution of single pixels
            value = value[:, :, 0, 0]
        if leaf.ndim == 1 and value.shape[:-1] == (1, 1, 1):  # one number for each of the last axis
            value = value[0, 0, 0]
        if value.ndim == leaf.ndim and (turned := value.transpose(_order(value.ndim))).shape == leaf.shape:
            with np.errstate(over="ignore"):
                values.append(_finite(name, turned, leaf.dtype))
        else:
            wanted = tuple(leaf.shape[i] for i in np.argsort(_order(leaf.ndim)))
            misfits.append(f"{name} is {value.shape}, must be {wanted}")
    unused = [name for name in tensors if name not in used]
    if missing or misfits or unused:
        near = {name: difflib.get_close_matches(name, unused, 1) for name in missing[:SHOWN]}
        told = [f"{name} (nearest: {near[name][0]})" if near.get(name) else name for name in missing]
        parts = [_some("missing", told), _some("unused", unused), _some("of another shape", misfits)]
        seems = recognition.described(_shapes(tensors))
        raise ValueError(
            f"into: the tensors do not fit the network: {'; '.join(filter(None, parts))}; they seem to be of {seems}"
        )
    return jax.tree_util.tree_unflatten(tree, values)


def _members(leaves: Any) -> dict[str, list[int]]:
    """Group leaves by the network of an ensemble or a mixture that they are of."""
    found: dict[str, list[int]] = {}
    for i, (path, _) in enumerate(leaves):
        first = path[1].key
        found.setdefault(first if first.isdigit() else "", []).append(i)
    return found


def _finite(name: str, value: np.ndarray, dtype: Any) -> jax.Array:
    kept = value.astype(dtype)
    if bad := int((~np.isfinite(np.asarray(kept, np.float32))).sum()):
        was = value.dtype
        raise ValueError(
            f"into: {name} holds {bad} values that are NaN or infinite, must be finite; the file is {was}"
            + (", which ends at 65504: save it in float32" if was == np.float16 else "")
        )
    return jnp.asarray(kept)


def _channels_last(path: Any, value: np.ndarray, leaves: Any) -> np.ndarray:
    """Reorder the inputs of a dense layer behind convolutions: PyTorch flattens (c, h, w), we (h, w, c)."""
    names = [key.key for key in path[1:]]
    convs = [
        leaf.shape[-1] for other, leaf in leaves if re.fullmatch(r"conv\d+", other[1].key) and leaf.ndim == 4
    ]
    if names != ["hidden", "kernel"] or not convs or value.ndim != 2 or value.shape[1] % convs[-1]:
        return value
    return value.reshape(len(value), convs[-1], -1).transpose(0, 2, 1).reshape(value.shape)


def _called(layout: layouts.Layout, path: Any) -> list[str]:
    *layer, kind = (key.key for key in path[1:] if key.key not in COLLECTIONS)
    word = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}.get(
        kind, kind
    )
    member = f"models.{layer.pop(0)}." if layer and layer[0].isdigit() else ""
    return [f"{member}{f'{name}.' if name else ''}{word}" for name in layout("/".join(layer))]


def _order(ndim: int) -> tuple[int, ...]:
    """From PyTorch's order, output channels first, to output channels last."""
    return {2: (1, 0), 4: (2, 3, 1, 0)}.get(ndim, tuple(range(ndim)))


def _some(what: str, names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{what}: {', '.join(names[:SHOWN])}{more}" if names else ""
