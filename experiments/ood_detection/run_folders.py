"""Networks of ood_detection.train: built from a config, opened from a run folder."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.shared import classifiers
from robustjax import data, runtime
from robustjax.catalog import models as model_names
from robustjax.catalog import ood_losses
from robustjax.data.sources import Split
from robustjax.losses import gaussian_mixture
from robustjax.losses.ccu import mixed
from robustjax.runtime.pytree_files import named
from robustjax.runtime.snapshot import in_bytes
from robustjax.types import Model, Params, State

DENSITIES = "densities.npz"
FITTED = 10_000  # images that a density is fitted to, at most


class Densities(NamedTuple):
    """What CCU knows of images: coordinates, and a mixture of Gaussians for data and for outliers."""

    axes: gaussian_mixture.Axes
    inside: gaussian_mixture.Mixture
    outside: gaussian_mixture.Mixture


class Opened(NamedTuple):
    """A network out of a run folder, its method, and the data it was trained on."""

    config: dict[str, Any]
    method: str
    model: Model
    params: Params
    state: State
    step: int
    classes: int
    densities: Densities | None


def fitted(images: Split, outliers: Split, *, seed: int, components: int = 100) -> Densities:
    """Fit CCU's densities to images in memory."""
    ours, theirs = (jnp.asarray(s.image[:FITTED], jnp.float32) / 255 for s in (images, outliers))
    axes = gaussian_mixture.principal(ours)
    first, second = jax.random.split(jax.random.key(seed))
    count = min(components, len(ours), len(theirs))
    return Densities(
        axes,
        gaussian_mixture.fitted(first, axes, ours, components=count),
        gaussian_mixture.fitted(second, axes, theirs, components=count),
    )


def keep(folder: pathlib.Path, densities: Densities) -> None:
    """Keep densities in a run folder."""
    runtime.write_whole(
        folder / DENSITIES, in_bytes({name: np.asarray(leaf) for name, leaf in named(densities).items()})
    )


def kept(folder: pathlib.Path) -> Densities | None:
    """Read the densities of a run folder, None if it has none."""
    if not (folder / DENSITIES).exists():
        return None
    with np.load(folder / DENSITIES) as file:
        part = {name: jnp.asarray(file[name]) for name in file.files}
    mixture = {
        side: gaussian_mixture.Mixture(part[f"{side}.mean"], part[f"{side}.log_variance"])
        for side in ("inside", "outside")
    }
    return Densities(gaussian_mixture.Axes(part["axes.forward"], part["axes.log_volume"]), **mixture)


def network(
    made: Mapping[str, Any], *, classes: int, shape: tuple[int, ...], densities: Densities | None = None
) -> Model:
    """Build the network of a config, with the outputs and the densities that its method needs."""
    model = model_names.classifier(
        made["model"],
        dataset=made["dataset"],
        classes=ood_losses.outputs(made["loss"], classes),
        shape=shape,
        dtype=made["dtype"],
    )
    return mixed(model, *densities) if densities is not None else model


def opened(folder: str, *, data_dir: str | None = None, test: Split | None = None) -> Opened:
    """Open a run folder of ood_detection.train or classification.train at the checkpoint that is to be judged.

    Raises:
      ValueError: if the folder holds no such run, or no whole checkpoint.
    """
    path = pathlib.Path(folder)
    try:
        made = json.loads((path / "config.json").read_text())["config"]
        method = made["loss"]
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(
            f"{path} holds no run of ood_detection.train or classification.train ({type(error).__name__}: {error})"
        ) from None
    test = test or data.load(made["dataset"], "test", data_dir=data_dir or made["data_dir"])
    classes = len(test.info.classes)
    if method not in ood_losses.METHODS or "outliers" not in made:
        it = classifiers.trained(folder, data_dir=data_dir)
        return Opened(made, "standard", it.model, it.params, it.state, it.step, classes, None)
    densities = kept(path)
    model = network(made, classes=classes, shape=test.image.shape[1:], densities=densities)
    params, state = jax.eval_shape(model.init, jax.random.key(0))
    like = {"ema": (params, state)} if made["ema"] else {"params": params, "state": state}
    with runtime.Checkpoints(path / "checkpoints", best="valid_robust", read_only=True) as saved:
        found = saved.restore_best(like, others=True)
    if found is None:
        raise ValueError(f"{path / 'checkpoints'} has no whole checkpoint yet")
    tree: Any = found[0]
    params, state = tree["ema"] if made["ema"] else (tree["params"], tree["state"])
    return Opened(made, method, model, params, state, found[1], classes, densities)
