r"""Does a translator undo attacks that it was not trained on? Leave one attack out of the ensemble, test on it.

    python -m experiments.ood_to_id.leave_one_out digits --out runs/translator_left_out

A pix2pix translator for every group of attacks is trained on pairs made by all other groups, and one on all of them;
each translates the images that every attack on the classifier alone makes of test images. All of it is static: who
knows the translator breaks it (see defence and compare). The system is reconstructed from the abstract
of arXiv:2202.08944; its tables were not available. The same command goes on with the trainings that are missing.
"""

import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np

from experiments.ood_to_id import images, networks
from experiments.ood_to_id.config import LEAVE_ONE_OUT_MAY_DIFFER, LeaveOneOutConfig
from experiments.ood_to_id.config import LEAVE_ONE_OUT_PRESETS as PRESETS
from experiments.ood_to_id.images import Sets
from experiments.shared import command_line
from robustjax import logit, runtime
from robustjax.analysis.intervals import proportion
from robustjax.data import subsets
from robustjax.evaluation.headline import percent
from robustjax.perturbations import adversarial_pairs
from robustjax.perturbations.pairs import ImagePair
from robustjax.runtime import strict_json
from robustjax.runtime.provenance import made_with, plain
from robustjax.runtime.report import Report
from robustjax.runtime.stopping import stopping
from robustjax.types import Batch, Images, Network, frozen


def main(cfg: LeaveOneOutConfig) -> int:
    """Train what is missing, test, tabulate."""
    began = time.process_time()
    # --- data, classifier and attacks on it ---
    sets = images.load(cfg.dataset, cfg.seed, data_dir=cfg.data_dir)
    test, index = sets.tested(cfg.images)
    with runtime.Run(cfg.out, cfg, may_differ=LEAVE_ONE_OUT_MAY_DIFFER) as run, stopping() as stop:
        classifier = networks.train_classifier(sets, cfg.recipe, cfg.seed, dataset=cfg.dataset)
        adversarial = attacked(cfg, classifier, test)
        f = jax.jit(lambda x: logit.correct(classifier.logits_fn(x), test.label) > 0.5)
        right = {"no translator": {name: np.asarray(f(x)) for name, x in adversarial.items()}}

        # --- a translator without each group ---
        pool: dict[str, ImagePair] = {}

        def trained(group: str) -> dict[str, np.ndarray]:
            runtime.say(f"trained without {group or 'nothing left out'}")
            if not pool:
                pool.update(pairs_by_attack(cfg, sets, classifier))
            chosen = [views for name, views in pool.items() if name not in group.split()]
            views = jax.tree.map(lambda *parts: jnp.concatenate(parts), *chosen)
            network = networks.train_pix2pix(views, cfg.recipe, cfg.seed)
            translate = frozen(network.model, network.params, network.state)
            return {name: np.asarray(f(translate(x))) for name, x in adversarial.items()}

        for group in ("", *cfg.groups):
            name = f"parts/without {group or 'none'}".replace(" ", "_")
            found = run.cached(name, lambda group=group: trained(group))
            assert found is not None
            right[f"all but {group}" if group else "all"] = found
            if stop.requested:
                runtime.say("stopped; the same command goes on with the next training")
                return stop.exit_code

    # --- results and report ---
    rows = table(right)
    shown = subsets.batch_in_words(test, sets.test, cfg.dataset)
    facts = {"made_with": made_with(), "config": plain(cfg), "rows": rows}
    facts |= {"images": shown, "indices": index.tolist()}
    strict_json.write(run.folder / "results.json", facts)
    for row in rows:
        print(" | ".join(row.values()))
    print(f"CPU: {(time.process_time() - began) / 60:.1f} minutes this time")
    page = leave_one_out_report(cfg, rows)
    page.text(f"Images: {shown}.")
    runtime.say(f"report: {page.write(run.folder / 'report.html')}")
    return 0


def attacked(cfg: LeaveOneOutConfig, classifier: Network, test: Batch) -> dict[str, Images]:
    """Attack the classifier alone on the test images, by every attack at the whole radius."""
    found = {"clean": test.image}
    for name in cfg.recipe.attacks:
        attack = adversarial_pairs.ATTACKS[name](cfg.recipe.eps)
        run = jax.jit(lambda key, x, y, attack=attack: attack(key, classifier.logits_fn, x, y).x)
        found[name] = run(jax.random.key(23), test.image, test.label)
    return found


def pairs_by_attack(cfg: LeaveOneOutConfig, sets: Sets, classifier: Network) -> dict[str, ImagePair]:
    """Make the pairs of every attack, and those of images with themselves, apart from each other."""
    pool = {}
    for name in ("", *cfg.recipe.attacks):
        recipe = dataclasses.replace(cfg.recipe, attacks=(name,) if name else ())
        views = networks.pairs_of(sets, classifier, recipe, cfg.seed)
        # Every image comes with itself as well: kept once.
        moved = np.asarray(jnp.abs(views.perturbed - views.image).max(axis=(1, 2, 3)) > 0) | (not name)
        pool[name] = ImagePair(views.image[moved], views.perturbed[moved])
    return pool


def table(right: dict[str, dict[str, np.ndarray]]) -> list[dict[str, str]]:
    """Tabulate the accuracy of f after T by what T was trained on; attacks that it was not trained on are marked."""
    rows = []
    for trained, found in right.items():
        left_out = trained.removeprefix("all but ").split() if trained.startswith("all but") else []
        cells = {
            name: percent(proportion(hits)) + (" unseen" if name in left_out else "")
            for name, hits in found.items()
        }
        rows.append({"T trained on": trained} | cells)
    return rows


def leave_one_out_report(cfg: LeaveOneOutConfig, rows: list[dict[str, str]]) -> Report:
    """Write the report."""
    report = Report("Attacks that a translator was not trained on", cfg)
    report.table(
        rows,
        caption="Accuracy of f after T in %, every image translated, under attacks on f alone, "
        f"linf {cfg.recipe.eps:g} (cw: l2). Nobody here knows T: the numbers say what it undoes, not how robust it is.",
    )
    report.scope(
        attacked=["the classifier alone"],
        attacks=[f"{', '.join(cfg.recipe.attacks)}, as in perturbations.adversarial_pairs"],
        not_attacked=["the translator: anybody who knows it"],
    )
    return report


if __name__ == "__main__":
    command_line.script(main, PRESETS, __doc__)
