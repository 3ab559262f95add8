"""Trained classifiers out of the run folders of `classification.train`."""

import json
import pathlib
from typing import Any, NamedTuple

import jax

from robustjax import data, runtime
from robustjax.catalog.models import classifier
from robustjax.types import Model, Params, State


class Trained(NamedTuple):
    """A network out of a run folder, with the test images of its data set."""

    config: dict[str, Any]
    model: Model
    params: Params
    state: State
    step: int
    test: data.Split


def trained(folder: str, *, data_dir: str | None = None) -> Trained:
    """Open a run folder of classification.train at its best checkpoint.

    Raises:
      ValueError: if the folder holds no such run, no whole checkpoint, or one of another architecture.
    """
    path = pathlib.Path(folder)
    try:
        made = json.loads((path / "config.json").read_text())["config"]
        name, dataset, dtype, loss, ema = (made[key] for key in ("model", "dataset", "dtype", "loss", "ema"))
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(
            f"{path} holds no run of classification.train ({type(error).__name__}: {error})"
        ) from None
    test = data.load(dataset, "test", data_dir=data_dir or made["data_dir"])
    model = classifier(
        name, dataset=dataset, classes=len(test.info.classes), shape=test.image.shape[1:], dtype=dtype
    )
    params, state = jax.eval_shape(model.init, jax.random.key(0))
    params = {"network": params} if loss == "free" else params
    like = {"ema": (params, state)} if ema else {"params": params, "state": state}
    with runtime.Checkpoints(path / "checkpoints", best="valid_robust", read_only=True) as saved:
        found = saved.restore_best(like, others=True)
    if found is None:
        raise ValueError(f"{path / 'checkpoints'} has no whole checkpoint yet")
    tree: Any = found[0]
    params, state = tree["ema"] if ema else (tree["params"], tree["state"])
    return Trained(made, model, params["network"] if loss == "free" else params, state, found[1], test)
