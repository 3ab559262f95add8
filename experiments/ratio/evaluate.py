"""Evaluate any network by the table of RATIO: robust accuracy, worst-case AUROC, calibration, counterfactuals.

    python -m experiments.ratio.evaluate cifar10 --source.checkpoint net.pt --source.architecture resnet50
        --source.normalisation cifar10 --source.dataset cifar10 --name engstrom --out runs/ratio_rows
    python -m experiments.ratio.evaluate cifar10 --source.run runs/mine --out runs/ratio_rows

The network is a run folder of classification.train, a PyTorch checkpoint or any function; nothing is trained. Every
network that was evaluated into a folder is a row of its tables, measured/NAME.npz, so that other people's networks
stand beside one's own. They must be on the same ID data, since all are evaluated on the same images.

--evaluator names a robust network, a run folder of classification.train on the same data, that says of counterfactuals
whether they show the target class; its features give their Frechet distance to training images.
"""

import json
import pathlib

import numpy as np

from experiments.ratio import report
from experiments.ratio.config import EVALUATE_PRESETS as PRESETS
from experiments.ratio.config import EvaluateConfig
from experiments.ratio.measure import Arrays, Evaluation, counterfactual_evaluation
from experiments.ratio.networks import Sets, test_sets
from experiments.ratio.results import Results
from experiments.shared import classifiers, command_line, network_source
from robustjax import data, runtime
from robustjax.data import subsets
from robustjax.evaluation.identity import difference, identity
from robustjax.runtime import strict_json
from robustjax.threats import Threat
from robustjax.types import Network

MAY_DIFFER = ("out", "data_dir", "source", "name", "resamples")


def main(cfg: EvaluateConfig) -> int:
    """Measure the network if its row is missing, then write the report on all rows."""
    # --- network and images ---
    network, _, test, flags = network_source.open_network(cfg.source, cfg.images, cfg.seed)
    for flag in flags:
        if flag.raised:
            runtime.say(f"warning: {flag.name}: {flag.says}")
    name, dataset = cfg.name or name_of(cfg.source), test.info.name
    train, valid = (
        data.load(dataset, split, data_dir=cfg.data_dir or cfg.source.data_dir, size=cfg.source.size)
        for split in ("train", "validation")
    )
    sets = Sets(train, subsets.subset(valid, cfg.images), test, None, test_sets(cfg, test))

    # --- measurement ---
    who = identity(network, test.image, test.index)

    def measured() -> Arrays:
        threats = {"threat": Threat("l2", cfg.eps), "ood_threat": Threat("l2", cfg.ood_eps)}
        found = Evaluation(network.model, cfg, sets, **threats).measure(network._replace(title=name))
        if cfg.evaluator is not None:
            found |= counterfactual_evaluation(evaluator(cfg.evaluator, dataset), sets)(found)
        return found | {"dataset": np.asarray(dataset), "identity": np.asarray(strict_json.text(who))}

    with runtime.Run(cfg.out, cfg, may_differ=MAY_DIFFER) as run:
        row = run.cached(f"measured/{name}", measured)
    if why := difference(json.loads(str(row["identity"])), who):
        raise ValueError(
            f"--name {name}: {cfg.out} holds a row of that name about another network ({why}); choose another --name"
        )
    rows = read(pathlib.Path(cfg.out) / "measured", dataset)

    # --- report ---
    it = Results(cfg, rows, train.info.classes, cfg.eps, cfg.ood_eps)
    about = report.About(
        "The table of RATIO",
        f"{len(rows)} network{'s' if len(rows) > 1 else ''} were evaluated as they are on {dataset} and on OOD sets: "
        f"{', '.join(sets.test_ood_sets)}.",
        ", ".join(rows),
        f"the robust network of {cfg.evaluator}" if cfg.evaluator else "",
    )
    page = report.page(it, sets, about)
    runtime.say(f"report: {page.write(pathlib.Path(cfg.out) / 'report.html')}")
    return 0


def name_of(source: network_source.Source) -> str:
    """Name a network by its folder, file or function."""
    if source.run:
        return pathlib.Path(source.run).name
    if source.checkpoint:
        return pathlib.Path(source.checkpoint).stem
    return (source.function or "").replace(":", "_").replace("/", "_")


def evaluator(folder: str, dataset: str) -> Network:
    """Open the network that evaluates counterfactuals.

    Raises:
      ValueError: if it is on other data.
    """
    network, test = classifiers.open_classifier(folder)
    if test.info.name != dataset:
        raise ValueError(f"--evaluator {folder} is on {test.info.name}, must be on {dataset}")
    return network


def read(folder: pathlib.Path, dataset: str) -> dict[str, Arrays]:
    """Read the networks measured into a folder, each as the one seed of a method.

    Raises:
      ValueError: if one is on other data.
    """
    rows: dict[str, Arrays] = {}
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as file:
            arrays = dict(file)
        del arrays["identity"]
        if (other := str(arrays.pop("dataset"))) != dataset:
            raise ValueError(
                f"{folder.parent} holds {path.stem}, on {other}, must be on {dataset}: choose another --out"
            )
        rows[path.stem] = {name: value[None] for name, value in arrays.items()}
    return rows


if __name__ == "__main__":
    command_line.script(main, PRESETS, __doc__)
