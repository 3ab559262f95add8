"""The networks whose scores ood_detection.evaluate judges: run folders, a checkpoint or a function."""

import dataclasses
import pathlib
from functools import partial
from typing import Any, NamedTuple

from experiments.ood_detection import run_folders
from experiments.shared import network_source
from robustjax import data
from robustjax.data import subsets
from robustjax.data.sources import Split
from robustjax.types import Model, frozen


class Judged(NamedTuple):
    """A network to judge.

    Attributes:
      name: of its folder of scores.
      model: None where it is a function, which has no inner activations.
      arguments: parameters and state, or nothing.
      logits: (*arguments) -> logits function.
      method: how it was trained.
      test: the data set's test images.
      dataset: where training images come from.
      about: what identifies it.
    """

    name: str
    model: Model | None
    arguments: tuple[Any, ...]
    logits: Any
    method: str
    test: Split
    dataset: str
    about: dict[str, Any]


def opened(cfg: Any) -> list[Judged]:
    """Open the networks to judge, which must share their data."""
    if not cfg.runs:
        it = network_source.opened(cfg.source, cfg.images, cfg.seed)
        model = None
        if cfg.source.checkpoint:
            model = network_source.imported(cfg.source, it.test).model
        elif cfg.source.run:
            return opened(dataclasses.replace(cfg, runs=(cfg.source.run,), source=network_source.Source()))
        name = pathlib.Path(cfg.source.checkpoint or cfg.source.function or "").stem.replace(":", ".")
        set_name = cfg.source.dataset or ""
        return [Judged(name, model, it.arguments, it.network, "standard", it.test, set_name, it.about)]
    found: list[Judged] = []
    for folder in cfg.runs:
        it = run_folders.opened(folder, data_dir=cfg.data_dir)
        dataset = it.config["dataset"]
        if found and dataset != found[0].dataset:
            raise ValueError(f"--runs {folder} is on {dataset}, must be on {found[0].dataset} as the others")
        test = found[0].test if found else subsets.first(
            data.load(dataset, "test", data_dir=cfg.data_dir or it.config["data_dir"]), cfg.images
        )  # fmt: skip
        about = {"run": folder, "model": it.config["model"], "loss": it.config["loss"], "checkpoint": it.step}
        name = pathlib.Path(folder).name
        if name in [other.name for other in found]:
            raise ValueError(f"--runs has two folders named {name}, must differ in their last part")
        found.append(
            Judged(
                name,
                it.model,
                (it.params, it.state),
                partial(frozen, it.model),
                it.method,
                test,
                dataset,
                about,
            )
        )
    return found
