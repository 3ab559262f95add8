"""The parts of ood_to_id.defence: the networks of a seed, and what is measured of them."""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.ood_to_id import images, networks
from experiments.ood_to_id.config import NATURAL, DefenceConfig
from experiments.ood_to_id.images import Sets
from robustjax.attacks import masking_checks
from robustjax.catalog.translators import translator
from robustjax.data import subsets
from robustjax.data.subsets import batch_subset
from robustjax.evaluation import defence_results, defences, gated_cases, headline, purifier, translation
from robustjax.evaluation.defence_results import Arrays, DefenceResults
from robustjax.evaluation.gated_cases import GatedCase
from robustjax.evaluation.translation import Parts
from robustjax.ood.gates import Gate, never
from robustjax.ood.translate import Defence, identity
from robustjax.runtime import weights_of
from robustjax.runtime.attack_progress import attack_progress
from robustjax.threats import Threat
from robustjax.types import Batch, Model, Network

PARTS = (
    "trained",
    "detection",
    "natural",
    "adaptive",
    "swapped",
    "baseline",
    "sweep",
)  # methods of `Measurements`
NETWORKS = ("classifier", "encoder", "translator", "natural", "robust")
FLAG = ("check", "raised", "what was seen", "numbers")
SHAPE = (16, 16, 1)


class Measurements:
    """Train and measure, one seed at a time; what was trained is read from the files of `trained`."""

    def __init__(self, cfg: DefenceConfig, folder: pathlib.Path) -> None:
        self.cfg, self.folder = cfg, folder
        cache = functools.cache  # per object, not per class
        self.sets, self.networks, self.scores = cache(self._sets), cache(self._networks), cache(self._scores)
        self._models = {
            "classifier": networks.classifier_of(cfg.recipe, "digits", 10, SHAPE),
            "encoder": networks.encoder_of(cfg.recipe, SHAPE),
            "translator": networks.translator_of("pix2pix", cfg.recipe, SHAPE),
        }

    # --- the system of a seed -----------------------------------------------------------------------------

    def _sets(self, seed: int) -> Sets:
        """Load the images, of the test images the first N."""
        sets = images.load("digits", seed)
        test, numbers = sets.tested(self.cfg.images)
        return sets._replace(test=test, numbers=numbers)

    def images_in_words(self) -> str:
        """Say which test images are attacked; they are the same for all seeds."""
        return subsets.batch_in_words(self.sets(0).test, images.load("digits", 0).test, "digits")

    def trained(self, seed: int) -> Arrays:
        """Train all networks of a seed: their parameters, leaf by leaf, as arrays."""
        sets, recipe = self.sets(seed), self.cfg.recipe
        made = {"classifier": networks.train_classifier(sets, recipe, seed)}
        model, stage = networks.encoder_stage(sets, recipe, seed)
        made["encoder"] = Network(model, *weights_of(stage), {})
        for name, shifts in (("translator", ()), ("natural", NATURAL)):
            own = dataclasses.replace(recipe, shifts=shifts)
            pool = networks.pairs_of(sets, made["classifier"], own, seed)
            made[name] = networks.train_pix2pix(pool, own, seed)
        model = made["classifier"].model
        stage = networks.robust_stage(model, sets, recipe, self.cfg.robust_epochs, seed)
        made["robust"] = Network(model, *weights_of(stage), {})
        return {
            f"{name}/{i:03d}": np.asarray(leaf)
            for name, network in made.items()
            for i, leaf in enumerate(jax.tree.leaves((network.params, network.state)))
        }

    def _networks(self, seed: int) -> dict[str, Network]:
        """Read the networks of a seed. All seeds share one model object of each kind, and so their programs."""
        found: dict[str, Network] = {}
        with np.load(self.folder / "parts" / f"trained_{seed}.npz") as file:
            for name in NETWORKS:
                model = self._model(name)
                like = jax.eval_shape(model.init, jax.random.key(0))
                leaves = [
                    jnp.asarray(file[key]) for key in sorted(k for k in file if k.startswith(f"{name}/"))
                ]
                params, state = jax.tree.unflatten(jax.tree.structure(like), leaves)
                found[name] = Network(model, params, state, {})
        return found

    def _model(self, name: str) -> Model:
        return self._models[{"natural": "translator", "robust": "classifier"}.get(name, name)]

    def parts(self, seed: int) -> Parts:
        """Put the system of a seed together."""
        made = self.networks(seed)
        features = translation.as_features(made["encoder"]), translation.as_features(made["classifier"])
        translate = translator("pix2pix", made["translator"])
        f = translation.as_logits(made["classifier"])
        return Parts(f, translate, features, self.sets(seed).valid.image)

    def _scores(self, seed: int) -> dict[str, Any]:
        """Fit the detectors of a seed."""
        return translation.detectors(self.parts(seed), self.sets(seed).train)

    def defence(self, seed: int, score: str = "SSD") -> Defence:
        """Put the classifier behind its gate and translator."""
        parts = self.parts(seed)
        gate = translation.calibrated(self.scores(seed)[score], parts.calibration)
        return Defence(parts.f, parts.translate, gate, parts.features)

    # --- what is measured ---------------------------------------------------------------------------------

    def detection(self, seed: int) -> Arrays:
        """Score attacks and noise."""
        parts, gate = self.parts(seed), self.defence(seed).gate
        other = translation.as_logits(self.networks(seed)["robust"])
        return translation.detection(
            parts, self.scores(seed), gate, self.sets(seed).test, self.cfg.recipe.eps, other
        )

    def natural(self, seed: int) -> Arrays:
        """Evaluate both translators on natural shifts."""
        made, parts = self.networks(seed), self.parts(seed)
        choices = {
            "attacks": parts.translate,
            "attacks and shifts": translator("pix2pix", made["natural"]),
        }
        rows = translation.natural_shifts(parts, self.defence(seed).gate, choices, self.sets(seed).test)
        return {name: np.array([row[name] for row in rows]) for name in rows[0]}

    def adaptive(self, seed: int) -> Arrays:
        """Attack the defence with all there is, and check what the headline asks for."""
        cfg, sets, defence = self.cfg, self.sets(seed), self.defence(seed)
        source = self.defence((seed + 1) % cfg.seeds)
        plan = (*gated_cases.static(), *self._plan(), *gated_cases.transferred(cfg.steps))
        pool = sets.valid.image, np.asarray(sets.valid.label)
        found = self._attacked(defence, sets.test, cfg.recipe.eps, plan, seed, source=source, pool=pool)
        checks = defences.gradient_checks(defence, sets.test, cfg.recipe.eps)
        flags = masking_checks.rows(headline.masking(found, checks))
        rows = {f"flag/{key}": np.array([str(row[key]) for row in flags]) for key in FLAG}
        single = defences.one_by_one(defence, sets.test.image[:16])
        ways = translation.paths(defence, sets.test)
        return defence_results.in_arrays(found) | rows | {"single": single, **ways}

    def swapped(self, seed: int) -> Arrays:
        """Attack the defence behind another gate, which reads the classifier's own features, on the first images."""
        plan = self._plan(restarts=1, targets=0, queries=0, estimates=0, matches=0, penalties=(15.0,))
        plan = [case for case in plan if case.attack[:2] in ("A1", "A3", "A4")]
        defence = self.defence(seed, "Mahalanobis of f")
        found = self._attacked(defence, self._sweep_images(seed), self.cfg.recipe.eps, plan, seed)
        return defence_results.in_arrays(found)

    def baseline(self, seed: int) -> Arrays:
        """Attack the classifier trained against PGD by the same code: no gate, no translator."""
        f = translation.as_logits(self.networks(seed)["robust"])
        gate = Gate(jax.tree_util.Partial(never), jnp.float32(-1))
        defence = Defence(f, jax.tree_util.Partial(identity), gate)
        plan = [
            gated_cases.on_the_classifier(case) if case.attack[:2] == "A1" else case
            for case in self._plan(estimates=0)
            if case.attack in ("A1 through translator", "A7 Square")
        ]
        plan = (*gated_cases.static(), *plan)
        found = self._attacked(defence, self.sets(seed).test, self.cfg.recipe.eps, plan, seed)
        return defence_results.in_arrays(found)

    def sweep(self, seed: int) -> Arrays:
        """Attack the first images at other radii, up to where everything is allowed."""
        defence, found = self.defence(seed), {}
        plan = gated_cases.at_radius_one(self.cfg.steps)
        for eps in self.cfg.radii:
            one = self._attacked(defence, self._sweep_images(seed), eps, plan, seed, every=False)
            found[f"{eps:g}"] = ~one.robust()
            found[f"{eps:g}/unseen"] = one.in_distribution()
        return found

    def headline(self, seed: int, parts: Mapping[str, Arrays]) -> headline.Headline:
        """Say what may be printed of the defence of a seed."""
        part, sets = parts[f"adaptive_{seed}"], self.sets(seed)
        at_one = float(1 - parts[f"sweep_{seed}"]["1"].mean())
        found = defence_results.from_arrays(part)
        return headline.headline(
            found, images=sets.test.image, calibration=sets.valid.image, single=part["single"], at_one=at_one
        )

    def _sweep_images(self, seed: int) -> Batch:
        return batch_subset(self.sets(seed).test, self.cfg.sweep_images)

    def _plan(self, **more: Any) -> tuple[GatedCase, ...]:
        """List the attacks of TM1 to TM3."""
        cfg = self.cfg
        settings: dict[str, Any] = {
            "steps": cfg.steps, "restarts": cfg.restarts, "targets": cfg.targets, "queries": cfg.queries,
            "estimates": cfg.estimates,
        }  # fmt: skip
        return gated_cases.adaptive(10, **(settings | more))

    def _attacked(
        self,
        defence: Defence,
        test: Batch,
        eps: float,
        plan: Sequence[GatedCase],
        seed: int,
        *,
        source: Defence | None = None,
        pool: tuple[Any, Any] | None = None,
        every: bool = True,
    ) -> DefenceResults:
        """Run those attacks of a plan that were asked for."""
        only = self.cfg.only
        chosen = [case for case in plan if not only or case.attack.startswith(only)]
        return purifier.evaluate(
            jax.random.key(seed), defence, test.image, test.label, Threat("linf", eps), chosen,
            batch_size=self.cfg.batch_size, source=source, pool=pool, every=every, progress=attack_progress(),
        )  # fmt: skip
