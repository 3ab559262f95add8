"""The folder of a trained translation system: written by ood_to_id.train, opened by whoever judges it."""

import json
import pathlib
from typing import Any, NamedTuple

import jax

from experiments.ood_to_id.networks import purifier, translate_of
from experiments.ood_to_id.recipe import Network, Recipe, Translate, classifier_of, encoder_of, translator_of
from experiments.shared import classifiers
from robustjax import runtime
from robustjax.types import Model


class System(NamedTuple):
    """What a run folder of ood_to_id.train holds.

    Attributes:
      classifier, encoder, translator: the networks.
      translate: (key, x) -> x, the translator as the defence uses it.
      config: of the run.
      told: its system.json.
    """

    classifier: Network
    encoder: Network
    translator: Network
    translate: Translate
    config: dict[str, Any]
    told: dict[str, Any]


def keep(folder: pathlib.Path, name: str, network: Network) -> None:
    """Write the weights of a network into the folder of a run."""
    with runtime.Checkpoints(folder / "networks" / name, keep=1) as saved:
        if not saved.steps():
            saved.save(1, {"params": network.params, "state": network.state})


def opened(folder: str | pathlib.Path) -> System:
    """Open a finished run folder of ood_to_id.train.

    Raises:
      ValueError: if the folder holds none, or one that is not finished.
    """
    path = pathlib.Path(folder)
    try:
        config = json.loads((path / "config.json").read_text())["config"]
        told = json.loads((path / "system.json").read_text())
        given = {name: _as_tuple(value) for name, value in config["recipe"].items()}
        kind, shape, classes = config["kind"], tuple(told["shape"]), told["classes"]
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(
            f"{path} holds no finished run of ood_to_id.train ({type(error).__name__}: {error})"
        ) from None
    recipe = Recipe(**given)
    if config["classifier"] is None:
        classifier = classifier_of(recipe, config["dataset"], classes, shape)
    else:
        classifier = classifiers.trained(config["classifier"]).model
    models = {
        "classifier": classifier,
        "encoder": encoder_of(recipe, shape),
        "translator": translator_of(kind, recipe, shape),
    }
    trained = {name: _there(path, name, model) for name, model in models.items()}
    until, network = told["until"], trained["translator"]
    translate = translate_of(network) if until is None else purifier(network, recipe, until)
    return System(**trained, translate=translate, config=config, told=told)


def read(folder: pathlib.Path, name: str, model: Model) -> Network | None:
    """Read the weights of a network that `keep` wrote, None if there are none."""
    params, state = jax.eval_shape(model.init, jax.random.key(0))
    with runtime.Checkpoints(folder / "networks" / name, keep=1, read_only=True) as saved:
        found = saved.restore({"params": params, "state": state})
    if found is None:
        return None
    tree: Any = found[0]
    return Network(model, tree["params"], tree["state"])


def _there(folder: pathlib.Path, name: str, model: Model) -> Network:
    if (found := read(folder, name, model)) is None:
        raise ValueError(f"{folder / 'networks' / name} has no whole checkpoint")
    return found


def _as_tuple(value: Any) -> Any:
    return tuple(_as_tuple(v) for v in value) if isinstance(value, list) else value
