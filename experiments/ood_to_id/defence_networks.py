"""The laboratory of ood_to_id.defence: trains the networks of a seed, and measures what its parts say."""

import dataclasses
import functools
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.ood_to_id import measure
from experiments.ood_to_id import networks as translators
from experiments.ood_to_id.measure import Arrays, Parts
from experiments.ood_to_id.networks import NATURAL, Network, Sets
from robustjax import optimizers, runtime, training
from robustjax.attacks import objectives
from robustjax.attacks.compose import against
from robustjax.attacks.pgd import pgd
from robustjax.evaluation import gated_cases, headline
from robustjax.losses.adversarial import adversarial
from robustjax.ood.gates import Gate, never
from robustjax.ood.translate import Defence, identity
from robustjax.runtime.attack_progress import attack_progress
from robustjax.staged_training import Stage
from robustjax.threats import Threat
from robustjax.types import Batch

NAMES = ("classifier", "encoder", "translator", "natural", "robust")
FLAG = ("check", "raised", "what was seen", "numbers")


class Lab:
    """Trains and measures, one seed at a time; what it trained is kept in files."""

    def __init__(self, cfg: Any, folder: pathlib.Path) -> None:
        self.cfg, self.folder = cfg, folder
        self._models: dict[str, Any] = {}
        self._known: dict[Any, Any] = {}

    # --- training -----------------------------------------------------------------------------------------

    def sets(self, seed: int) -> Sets:
        """Load the images; the first test images are judged on."""
        if ("sets", seed) not in self._known:
            sets = translators.digits(seed)
            test = translators.picked(sets.test, slice(self.cfg.images))
            self._known["sets", seed] = sets._replace(test=test)
        return self._known["sets", seed]

    def trained(self, seed: int) -> Arrays:
        """Train all networks of a seed: their parameters, leaf by leaf, as arrays."""
        sets, recipe = self.sets(seed), self.cfg.recipe
        made = {"classifier": translators.train_classifier(sets, recipe, seed)}
        made["encoder"] = translators.train_encoder(sets, recipe, seed)
        for name, shifts in (("translator", ()), ("natural", NATURAL)):
            own = dataclasses.replace(recipe, shifts=shifts)
            pool = translators.views_of(sets, made["classifier"], own, seed)
            made[name] = translators.train_pix2pix(pool, own, seed)
        made["robust"] = self._robust(made["classifier"], sets, seed)
        self._models |= {name: network.model for name, network in made.items()}
        leaves: Arrays = {}
        for name, network in made.items():
            for i, leaf in enumerate(jax.tree.leaves((network.params, network.state))):
                leaves[f"{name}/{i:03d}"] = np.asarray(leaf)
        return leaves

    def _robust(self, classifier: Network, sets: Sets, seed: int) -> Network:
        cfg, model = self.cfg, classifier.model
        total = cfg.robust_epochs * (len(sets.train.label) // cfg.recipe.batch_size)
        tx, step = _hardening(model, total, cfg.recipe.eps)
        stage = Stage(
            "robust classifier", lambda: training.start(jax.random.key(seed + 50), model, tx), step, sets.train,
            cfg.recipe.batch_size, total, seed,
        )  # fmt: skip
        return Network(model, *runtime.weights_of(stage))

    def networks(self, seed: int) -> dict[str, Network]:
        """Read the networks of a seed. All seeds share one model object of each kind, and so their programs."""
        if ("networks", seed) not in self._known:
            found = {}
            with np.load(self.folder / "parts" / f"trained_{seed}.npz") as file:
                for name in NAMES:
                    model = self._model(name)
                    like = jax.eval_shape(model.init, jax.random.key(0))
                    leaves = [
                        jnp.asarray(file[key]) for key in sorted(k for k in file if k.startswith(f"{name}/"))
                    ]
                    found[name] = Network(model, *jax.tree.unflatten(jax.tree.structure(like), leaves))
            self._known["networks", seed] = found
        return self._known["networks", seed]

    def _model(self, name: str) -> Any:
        recipe, shape = self.cfg.recipe, (16, 16, 1)
        same = {"natural": "translator", "robust": "classifier"}
        name = same.get(name, name)
        if ("model", name) not in self._known:
            build = {
                "classifier": lambda: translators.classifier_of(recipe, "digits", 10, shape),
                "encoder": lambda: translators.encoder_of(recipe, shape),
                "translator": lambda: translators.translator_of("pix2pix", recipe, shape),
            }
            self._known["model", name] = build[name]()
        return self._known["model", name]

    # --- measuring ----------------------------------------------------------------------------------------

    def parts(self, seed: int) -> Parts:
        """Put the system of a seed together."""
        made = self.networks(seed)
        eyes = measure.as_features(made["encoder"]), measure.as_features(made["classifier"])
        translate = translators.translate_of(made["translator"])
        return Parts(measure.as_logits(made["classifier"]), translate, eyes, self.sets(seed).valid.image)

    def defence(self, seed: int, score: str = "SSD") -> Defence:
        """Put the classifier behind its gate and translator."""
        parts = self.parts(seed)
        gate = measure.calibrated(self.scores(seed)[score], parts.calibration)
        return Defence(parts.f, parts.translate, gate, parts.eyes)

    def scores(self, seed: int) -> dict[str, Any]:
        """Fit the detectors of a seed, once."""
        if ("scores", seed) not in self._known:
            self._known["scores", seed] = measure.detectors(self.parts(seed), self.sets(seed).train)
        return self._known["scores", seed]

    def detection(self, seed: int) -> Arrays:
        """Score attacks and noise."""
        parts, defence = self.parts(seed), self.defence(seed)
        other = measure.as_logits(self.networks(seed)["robust"])
        test, eps = self.sets(seed).test, self.cfg.recipe.eps
        return measure.detection(parts, self.scores(seed), defence.gate, test, eps, other)

    def natural(self, seed: int) -> Arrays:
        """Judge both translators on natural shifts."""
        made, parts = self.networks(seed), self.parts(seed)
        choices = {
            "attacks": parts.translate,
            "attacks and shifts": translators.translate_of(made["natural"]),
        }
        rows = measure.natural(parts, self.defence(seed).gate, choices, self.sets(seed).test)
        return {name: np.array([row[name] for row in rows]) for name in rows[0]}

    def plan(self, **more: Any) -> tuple[gated_cases.GatedCase, ...]:
        """List the attacks of TM1 to TM3."""
        cfg = self.cfg
        settings: dict[str, Any] = {
            "steps": cfg.steps, "restarts": cfg.restarts, "targets": cfg.targets, "queries": cfg.queries,
            "estimates": cfg.estimates,
        }  # fmt: skip
        return gated_cases.adaptive(10, **(settings | more))

    def chosen(self, plan: Sequence[gated_cases.GatedCase]) -> tuple[gated_cases.GatedCase, ...]:
        """Keep the attacks that were asked for."""
        return tuple(one for one in plan if not self.cfg.only or one.attack.startswith(self.cfg.only))

    def adaptive(self, seed: int) -> Arrays:
        """Attack the defence with all there is, and check what the headline asks for."""
        cfg, sets, defence = self.cfg, self.sets(seed), self.defence(seed)
        copy = self.defence((seed + 1) % cfg.seeds)
        plan = (*gated_cases.static(), *self.plan(), *gated_cases.transferred(cfg.steps))
        pool = sets.valid.image, np.asarray(sets.valid.label)
        found = self._attacked(defence, sets.test, cfg.recipe.eps, plan, seed, copy=copy, pool=pool)
        flags = headline.masking(found, measure.probes(defence, sets.test, cfg.recipe.eps))
        rows = {
            f"flag/{key}": np.array([str(row[key]) for row in headline.masking_checks.rows(flags)])
            for key in FLAG
        }
        single = measure.alone(defence, sets.test.image[:16])
        return measure.in_arrays(found) | rows | {"single": single, **measure.paths(defence, sets.test)}

    def swapped(self, seed: int) -> Arrays:
        """Attack the defence behind another gate, which reads the classifier's own features, on the first images."""
        plan = self.plan(restarts=1, targets=0, queries=0, estimates=0, matches=0, penalties=(15.0,))
        plan = [one for one in plan if one.attack[:2] in ("A1", "A3", "A4")]
        defence = self.defence(seed, "Mahalanobis of f")
        found = self._attacked(defence, self.first(seed), self.cfg.recipe.eps, plan, seed)
        return measure.in_arrays(found)

    def baseline(self, seed: int) -> Arrays:
        """Attack the classifier trained against PGD by the same code: no gate, no translator."""
        f = measure.as_logits(self.networks(seed)["robust"])
        defence = Defence(
            f, jax.tree_util.Partial(identity), Gate(jax.tree_util.Partial(never), jnp.float32(-1))
        )
        plan = [one for one in self.plan(estimates=0) if one.attack in ("A1 through translator", "A7 Square")]
        # Nothing is routed, so what goes "through" is f and what is "unseen" as well.
        plan = [
            dataclasses.replace(one, surrogate=measure.gated_objectives.unseen)
            if one.attack[:2] == "A1"
            else one
            for one in plan
        ]
        found = self._attacked(
            defence, self.sets(seed).test, self.cfg.recipe.eps, (*gated_cases.static(), *plan), seed
        )
        return measure.in_arrays(found)

    def sweep(self, seed: int) -> Arrays:
        """Attack the first images at other radii, up to where everything is allowed."""
        defence, found = self.defence(seed), {}
        for eps in self.cfg.radii:
            plan = measure.sweep(self.cfg.steps)
            one = self._attacked(defence, self.first(seed), eps, plan, seed, every=False)
            found[f"{eps:g}"] = ~one.robust()
            found[f"{eps:g}/unseen"] = one.in_distribution()
        return found

    def first(self, seed: int) -> Batch:
        """Pick the test images that suffice for a trend."""
        return translators.picked(self.sets(seed).test, slice(self.cfg.swept))

    def head(self, seed: int, cells: dict[str, Arrays]) -> headline.Headline:
        """Say what may be printed of the defence of a seed."""
        cell, sets = cells[f"adaptive_{seed}"], self.sets(seed)
        found = measure.from_arrays(cell)
        at_one = float(1 - cells[f"sweep_{seed}"]["1"].mean())
        return measure.told(found, sets.test, sets.valid.image, cell["single"], at_one)

    def _attacked(self, defence: Defence, test: Batch, eps: float, plan: Any, seed: int, **more: Any) -> Any:
        return measure.attacked(
            defence,
            test,
            eps,
            self.chosen(plan),
            seed=seed,
            batch_size=self.cfg.batch_size,
            progress=attack_progress(),
            **more,
        )


@functools.cache
def _hardening(model: Any, total: int, eps: float) -> tuple[Any, Any]:
    """Build optimiser and step of training against PGD: one function, and so one program, for all seeds."""
    tx = optimizers.adam(optimizers.one_cycle(2e-3, total, peak=0.3))
    around = pgd(Threat("linf", eps), steps=10, step_size=eps / 4, keep="last")
    return tx, training.step(adversarial(model, against(around, objectives.cross_entropy)), tx)
