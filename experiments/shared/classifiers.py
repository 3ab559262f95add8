"""Trained classifiers out of the run folders of the topic classification."""

from typing import Any

import jax

from robustjax import checks, data, runtime
from robustjax.catalog.models import classifier
from robustjax.types import Network


def open_classifier(folder: str, *, data_dir: str | None = None) -> tuple[Network, data.Split]:
    """Open a run folder of classification.train or classification.speedrun at its best checkpoint.

    Args:
      folder: of the run.
      data_dir: where prepared data are; by default where they were in training.
    Returns:
      The network, and the test images of its data set. `about` says the run, its model, dataset, loss and attack, and
      the number of its checkpoint.
    Raises:
      ValueError: if the folder holds no such run, no whole checkpoint, one of another architecture, or weights
        that are NaN or infinite.
    """
    needed = ("model", "dataset", "dtype", "loss", "attack", "ema", "data_dir")
    run = runtime.open_run(folder, made_by="classification.train", needed=needed)
    made = run.config
    place = data_dir or made["data_dir"]
    test = data.load(made["dataset"], "test", data_dir=place, size=made.get("size"))
    model = classifier(
        made["model"],
        dataset=made["dataset"],
        classes=len(test.info.classes),
        shape=test.image.shape[1:],
        dtype=made["dtype"],
    )
    params, state = jax.eval_shape(model.init, jax.random.key(0))
    params = {"network": params} if made["loss"] == "free" else params
    averaged = made["ema"] or made.get("swa")  # which speedruns have not
    like = {"ema": (params, state)} if averaged else {"params": params, "state": state}
    tree: Any
    tree, step = run.restore(like, best="valid_robust")
    params, state = tree["ema"] if averaged else (tree["params"], tree["state"])
    params = params["network"] if made["loss"] == "free" else params
    checks.finite_weights(f"checkpoint {step} of {folder}", (params, state))
    about = {
        "run": str(folder),
        **{name: made[name] for name in ("model", "dataset", "loss", "attack")},
        "checkpoint": step,
    }
    return Network(model, params, state, about, f"{made['model']} on {made['dataset']}"), test
