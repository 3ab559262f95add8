"""Train plain, OE, ACET, AT, TRADES and RATIO on the same images, and evaluate them in and out of distribution.

    python -m experiments.ratio.compare digits --out runs/ratio
    python -m experiments.ratio.compare mnist --methods plain at ratio --out runs/ratio_mnist

The comparison of RATIO (arXiv:2003.09461): accuracy, robust accuracy, AUROC and worst-case AUROC against several OOD
sets, confidence, calibration, and the quality of visual counterfactuals, each over several seeds with intervals.
report.html also has figures: curves over radii, counterfactuals of all methods side by side, every class from the
same start, reliability diagrams.

The OOD sets of training and of testing must differ. A run folder keeps the networks (training/METHOD_SEED) and what
was measured of them (measured/METHOD_SEED.npz). The same command with the same --out goes on where it stopped; more
--methods or --seeds may be added later.
"""

import functools
import pathlib

import numpy as np
from jax.sharding import Mesh

from experiments.ratio import report
from experiments.ratio.config import MAY_DIFFER, PRESETS, Config, Method
from experiments.ratio.measure import Arrays, Evaluation, counterfactual_evaluation
from experiments.ratio.networks import classifier, load_sets, train, training_step
from experiments.ratio.results import TITLES, Results
from experiments.shared import command_line
from experiments.shared.planned import Planned, batch_of, images_of, of_step, require_one_device
from robustjax import runtime, training
from robustjax.runtime.stopping import stopping
from robustjax.threats import Threat
from robustjax.types import Network, Pair

EVALUATION_SEED = 1000  # of the network that evaluates counterfactuals


def main(cfg: Config) -> int:
    """Train and measure what is missing, then write the report."""
    # --- images and threat models of the evaluation ---
    sets = load_sets(cfg)
    classes, shape = sets.train.info.classes, sets.train.image.shape[1:]
    threat, ood_threat = Threat("l2", cfg.eps), Threat("l2", cfg.ood_eps)

    # --- networks ---
    model = functools.cache(lambda name: classifier(name, cfg.dataset, classes=len(classes), shape=shape))

    @functools.cache  # one compiled update serves all seeds of a method
    def update(name: str, method: Method) -> training.Step:
        return training_step(method, model(name), cfg, classes=len(classes))

    with runtime.Run(cfg.out, cfg, may_differ=MAY_DIFFER) as run, stopping() as stop:

        def trained(name: str, method: Method, seed: int, folder: str, title: str) -> Network | None:
            fitted = train(
                update(name, method), model(name), cfg, sets,
                seed=seed, folder=run.folder / "training" / folder, stop=stop, label=title,
            )  # fmt: skip
            if fitted.exit_code:
                return None
            about = {"method": method, "seed": seed, "model": name}
            return Network(model(name), *training.for_evaluation(fitted.state), about, title)

        # --- a robust network of another seed, which evaluates counterfactuals ---
        evaluator = trained(
            cfg.evaluation_model, "at", EVALUATION_SEED, "evaluation_network", "evaluation network"
        )
        if evaluator is None:
            return stop.exit_code

        # --- training and measuring, seed by seed: stopped early, --seeds 1 already makes a whole table ---
        evaluation = Evaluation(model(cfg.model), cfg, sets, threat=threat, ood_threat=ood_threat)
        evaluate_counterfactuals = counterfactual_evaluation(evaluator, sets)

        def measured(method: Method, seed: int) -> Arrays | None:
            runtime.say(f"training {TITLES[method]}, seed {seed}")
            network = trained(cfg.model, method, seed, f"{method}_{seed}", f"{TITLES[method]} {seed}")
            if network is None:
                return None
            found = evaluation.measure(network)
            return found | evaluate_counterfactuals(found)

        found: dict[str, list[Arrays]] = {method: [] for method in cfg.methods}
        for seed in range(cfg.seeds):
            for method in cfg.methods:
                arrays = run.cached(f"measured/{method}_{seed}", functools.partial(measured, method, seed))
                if arrays is None:
                    return stop.exit_code
                found[method].append(arrays)

    # --- report ---
    over_seeds = {
        method: {name: np.stack([arrays[name] for arrays in seeds]) for name in seeds[0]}
        for method, seeds in found.items()
    }
    it = Results(cfg, over_seeds, classes, cfg.eps, cfg.ood_eps, TITLES)
    page = report.page(it, sets, report.of_methods(cfg, sets, it))
    runtime.say(f"report: {page.write(pathlib.Path(cfg.out) / 'report.html')}")
    return 0


def planned(cfg: Config, mesh: Mesh, *, shape: tuple[int, ...], classes: int) -> list[Planned]:
    """List what a run does most of its time, for `benchmarks.plan`: the training step of every method.

    Args:
      cfg: the settings.
      mesh: of one device, which need not be there.
      shape, classes: of the images.
    Raises:
      ValueError: for several devices.
    """
    require_one_device("ratio.compare", mesh)
    batch = Pair(batch_of(cfg.batch_size, shape), images_of(cfg.batch_size, shape))

    def of(name: str, method: Method, calls: int, what: str) -> Planned:
        model = classifier(name, cfg.dataset, classes=classes, shape=shape)
        step, tx = training_step(method, model, cfg, classes=classes), cfg.optimizer.over(cfg.updates)
        return of_step(step, model, tx, batch, mesh, calls=calls, ema=cfg.ema, name=f"{what}: training step")

    return [
        of(cfg.evaluation_model, "at", cfg.updates, "evaluation network"),
        *(of(cfg.model, method, cfg.seeds * cfg.updates, TITLES[method]) for method in cfg.methods),
    ]


if __name__ == "__main__":
    command_line.script(main, PRESETS, __doc__)
