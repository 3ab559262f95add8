r"""Does a translator undo attacks that it was not trained on? Leave one attack out of the ensemble, test on it.

    python -m experiments.ood_to_id.leave_one_out digits --out runs/translator_left_out

A pix2pix translator for every group of attacks is trained on pairs made by all other groups, and one on all of them;
each is asked for the images that every attack on the classifier alone makes of test images. All of it is static: who
knows the translator breaks it (see defence and compare). The system is reconstructed from the abstract
of arXiv:2202.08944; its tables were not available. The same command goes on with the trainings that are missing.
"""

import dataclasses
import json
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.ood_to_id import networks
from experiments.ood_to_id.pairs import views_of
from experiments.ood_to_id.recipe import Recipe
from experiments.shared import command_line
from robustjax import logit, runtime
from robustjax.analysis.intervals import proportion
from robustjax.evaluation.headline import percent
from robustjax.perturbations import adversarial_pairs
from robustjax.perturbations.pairs import ImagePair
from robustjax.runtime.provenance import made_with, plain
from robustjax.runtime.report import Report
from robustjax.runtime.snapshot import in_bytes
from robustjax.runtime.stopping import stopping

ENSEMBLE = ("fgsm", "bim", "pgd", "cw", "spsa")


@dataclasses.dataclass(frozen=True)
class Config:
    """Train on all attacks but some, and test on those."""

    dataset: str = "digits"
    recipe: Recipe = Recipe(attacks=ENSEMBLE, epochs=4)
    groups: tuple[str, ...] = (
        "fgsm",
        "bim pgd",
        "cw",
        "spsa",
    )  # left out together: bim is pgd without a draw
    images: int | None = None  # test images, all for None
    seed: int = 0
    out: str = "runs/translator_left_out"
    data_dir: str | None = None

    def check(self) -> None:
        """Refuse what cannot be meant, before any work."""
        for group in self.groups:
            if unknown := set(group.split()) - set(self.recipe.attacks):
                raise ValueError(f"--groups has {', '.join(unknown)}, must be of --recipe.attacks")
            if set(group.split()) == set(self.recipe.attacks):
                raise ValueError(f"--groups has {group!r}, which leaves no attack to train on")


PRESETS = {
    "digits": Config(),
    "smoke": Config(
        recipe=Recipe(
            classifier_epochs=1, width=4, critic_width=4, epochs=1, batch_size=32, attacks=("fgsm", "bim"),
            shares=(1.0,), pairs_of=32, subset=(("bim", 0.5),),
        ),
        groups=("fgsm",), images=8,
    ),
}  # fmt: skip
MAY_DIFFER = ("out", "data_dir")


def main(cfg: Config) -> int:
    """Train what is missing, test, tabulate."""
    began = time.process_time()
    if cfg.dataset == "digits":
        sets = networks.digits(cfg.seed)
    else:
        sets = networks.prepared(cfg.dataset, data_dir=cfg.data_dir)
    test = networks.picked(sets.test, slice(cfg.images))
    with runtime.Run(cfg.out, cfg, may_differ=MAY_DIFFER) as run, stopping() as stop:
        classifier = networks.train_classifier(sets, cfg.recipe, cfg.seed, dataset=cfg.dataset)
        asked = families(cfg, classifier, test)
        f = jax.jit(lambda x: logit.correct(classifier(x), test.label) > 0.5)
        rights = {"no translator": {name: np.asarray(f(x)) for name, x in asked.items()}}
        pool: dict[str, ImagePair] = {}
        for group in ("", *cfg.groups):
            path = run.folder / "parts" / f"without {group or 'none'}.npz".replace(" ", "_")
            if not path.exists():
                runtime.say(f"trained without {group or 'nothing left out'}")
                pool = pool or pairs_by_attack(cfg, sets, classifier)
                chosen = [views for name, views in pool.items() if name not in group.split()]
                views = jax.tree.map(lambda *parts: jnp.concatenate(parts), *chosen)
                network = networks.train_pix2pix(views, cfg.recipe, cfg.seed)
                found = {name: np.asarray(f(network(x))) for name, x in asked.items()}
                runtime.write_whole(path, in_bytes(found, compressed=True))
            with np.load(path) as file:
                rights[f"all but {group}" if group else "all"] = dict(file)
            if stop.requested:
                runtime.say("stopped; the same command goes on with the next training")
                return stop.exit_code
    rows = table(cfg, rights)
    facts = {"made_with": made_with(), "config": plain(cfg), "rows": rows}
    runtime.write_whole(pathlib.Path(cfg.out) / "results.json", json.dumps(facts, indent=1) + "\n")
    for row in rows:
        print(" | ".join(row.values()))
    print(f"CPU: {(time.process_time() - began) / 60:.1f} minutes this time")
    runtime.say(f"report: {page(cfg, rows).write(pathlib.Path(cfg.out) / 'report.html')}")
    return 0


def families(cfg: Config, classifier: Any, test: Any) -> dict[str, Any]:
    """Attack f, which nobody translates for, on the test images, by every attack at the whole radius."""
    found = {"clean": test.image}
    for name in cfg.recipe.attacks:
        attack = adversarial_pairs.ATTACKS[name](cfg.recipe.eps)
        run = jax.jit(lambda key, x, y, attack=attack: attack(key, classifier, x, y).x)
        found[name] = run(jax.random.key(23), test.image, test.label)
    return found


def pairs_by_attack(cfg: Config, sets: Any, classifier: Any) -> dict[str, ImagePair]:
    """Make the pairs of every attack, and those of images with themselves, apart from each other."""
    pool = {}
    for name in ("", *cfg.recipe.attacks):
        recipe = dataclasses.replace(cfg.recipe, attacks=(name,) if name else ())
        views = views_of(sets, classifier, recipe, cfg.seed)
        # Every image comes with itself as well: kept once.
        moved = np.asarray(jnp.abs(views.perturbed - views.image).max(axis=(1, 2, 3)) > 0) | (not name)
        pool[name] = ImagePair(views.image[moved], views.perturbed[moved])
    return pool


def table(cfg: Config, rights: dict[str, dict[str, np.ndarray]]) -> list[dict[str, str]]:
    """Tabulate the accuracy of f after T by what T was trained on; what it had not seen is marked."""
    rows = []
    for trained, found in rights.items():
        unseen = trained.removeprefix("all but ").split() if trained.startswith("all but") else []
        cells = {
            name: percent(proportion(hits)) + (" unseen" if name in unseen else "")
            for name, hits in found.items()
        }
        rows.append({"T trained on": trained} | cells)
    return rows


def page(cfg: Config, rows: list[dict[str, str]]) -> Report:
    """Write the page."""
    page = Report("Attacks that a translator was not trained on", cfg)
    page.table(
        rows,
        caption="Accuracy of f after T in %, every image translated, under attacks on f alone, "
        f"linf {cfg.recipe.eps:g} (cw: l2). Nobody here knows T: the numbers say what it undoes, not how robust it is.",
    )
    page.scope(
        attacked=["the classifier alone"],
        attacks=[f"{', '.join(cfg.recipe.attacks)}, as in perturbations.adversarial_pairs"],
        not_attacked=["the translator: anybody who knows it"],
    )
    return page


if __name__ == "__main__":
    command_line.script(main, PRESETS, __doc__)
