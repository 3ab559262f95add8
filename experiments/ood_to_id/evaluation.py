"""Attack a translation system, attack by attack, in a folder: what ood_to_id.evaluate and compare share."""

import pathlib
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.ood_to_id import images
from experiments.ood_to_id.config import DISTANCES, EVALUATE_MAY_DIFFER, EvaluateConfig
from experiments.ood_to_id.images import Sets
from experiments.ood_to_id.training import Stopped, System, open_system
from robustjax import runtime
from robustjax.attacks.flags import Flag
from robustjax.catalog.names import imported
from robustjax.catalog.translators import TRANSLATORS
from robustjax.data.subsets import batch_subset
from robustjax.evaluation import defence_results, defences, gated_cases, headline, purifier, translation
from robustjax.evaluation.defence_results import Arrays, DefenceResults
from robustjax.evaluation.gated_cases import GatedCase
from robustjax.ood.gates import Gate, always
from robustjax.ood.translate import Defence
from robustjax.runtime import strict_json
from robustjax.runtime.provenance import made_with, plain
from robustjax.runtime.stopping import Stop, stopping
from robustjax.threats import Threat
from robustjax.types import Batch


class Target(NamedTuple):
    """What is attacked.

    Attributes:
      defence: classifier, gate and translator.
      source: another training of it, for attacks that transfer.
      sets: the images it was trained, calibrated and is tested on.
      test: the test images that are attacked; numbers: (n,) theirs numbers in the data set.
      eps: radius, linf.
      random: whether the translator draws anew at every call.
    """

    defence: Defence
    source: Defence | None
    sets: Sets
    test: Batch
    numbers: np.ndarray
    eps: float
    random: bool


class Evaluation(NamedTuple):
    """What an evaluation found.

    Attributes:
      target: what was attacked.
      found: by mode (deterministic, a fixed draw, the mean of draws), what every attack did.
      headline: what may be printed.
      flags: signs of masked gradients.
      at_one: accuracy at radius 1.
      controls: table of noise and natural shifts.
      submissions: by mode, table of several submissions to a random translator.
    """

    target: Target
    found: dict[str, DefenceResults]
    headline: headline.Headline
    flags: tuple[Flag, ...]
    at_one: float
    controls: list[dict[str, str]]
    submissions: dict[str, list[dict[str, str]]]


class Comparison(NamedTuple):
    """What a gate that decides for ten images at once does, beside the same gate image by image: no headline."""

    target: Target
    rows: list[dict[str, str]]


def evaluate_system(cfg: EvaluateConfig) -> Evaluation | Comparison:
    """Attack a defence with and without knowledge of it; every attack is kept in the folder when it is done.

    Raises:
      Stopped: if asked to; the same settings go on with the next attack.
    """
    # --- the defence ---
    target = open_target(cfg)
    defence, test, eps = target.defence, target.test, target.eps
    given = defences.as_argument(defence)
    modes: dict[str, int | None] = {"fixed draw" if target.random else "deterministic": None}
    if target.random and cfg.samples:
        modes[f"mean of {cfg.samples} draws"] = cfg.samples
    found: dict[str, DefenceResults] = {}
    submissions: dict[str, list[dict[str, str]]] = {}

    # --- attacks ---
    with runtime.Run(cfg.out, cfg, may_differ=EVALUATE_MAY_DIFFER) as run, stopping() as stop:
        for mode, samples in modes.items():
            parts = _attacked(cfg, run, mode, target, samples, stop)
            if cfg.gate == "grouped":
                points = {str(part["attacks"][0]): part["points"] for part in parts}
                return Comparison(target, translation.grouped_rows(defence, test, points, eps))
            found[mode] = defence_results.joined([defence_results.from_arrays(part) for part in parts])
            if target.random:
                found[mode], submissions[mode] = translation.resubmitted(
                    given, test, [part["points"] for part in parts], found[mode],
                    times=cfg.resubmissions, batch_size=cfg.batch_size,
                )  # fmt: skip

    # --- controls, radius 1, and what may be printed ---
    controls = translation.noise_and_shifts(defence, test, eps, _pgd_points(pathlib.Path(cfg.out)))
    mode, worst = min(found.items(), key=lambda item: item[1].robust().mean())
    plan = [
        case
        for case in gated_cases.at_radius_one(cfg.steps)
        if not case.attack.startswith(cfg.exempt or ("-",))
    ]
    at_one = purifier.evaluate(
        jax.random.key(cfg.seed), defence, test.image, test.label, Threat("linf", 1.0), plan,
        batch_size=cfg.batch_size,
    )  # fmt: skip
    left = float(at_one.robust().mean())
    calibration = None if cfg.function else target.sets.valid.image
    single = defences.one_by_one(given, test.image[:16], key=jax.random.key(cfg.seed), samples=modes[mode])
    printed = headline.headline(
        worst, images=test.image, calibration=calibration, single=single, at_one=left, exempt=cfg.exempt
    )
    flags = headline.masking(worst, defences.gradient_checks(given, test, eps))
    return Evaluation(target, found, printed, flags, left, controls, submissions)


def write_results(cfg: EvaluateConfig, facts: dict[str, Any]) -> None:
    """Write results.json: what was found, with what made it."""
    whole = {"made_with": made_with(), "config": plain(cfg), **facts}
    strict_json.write(pathlib.Path(cfg.out) / "results.json", whole)


def open_target(cfg: EvaluateConfig) -> Target:
    """Build the defence, its source of transfer and the images.

    Raises:
      ValueError: if the run or the function is not there.
    """
    if cfg.function is not None:
        built = imported(cfg.function, flag="--function")()
        if not isinstance(built, Defence):
            raise ValueError(
                f"--function gave {type(built).__name__}, must be a robustjax.ood.translate.Defence"
            )
        sets = images.load(str(cfg.dataset), cfg.seed, data_dir=cfg.data_dir)
        return Target(built, None, sets, *sets.tested(cfg.images), float(cfg.eps or 0.0), cfg.random)
    system = open_system(str(cfg.run))
    made = system.settings
    sets = images.load(
        made.dataset, made.seed, data_dir=cfg.data_dir, size=made.size, preprocess=made.preprocess,
        images=made.images if made.preprocess else None,
    )  # fmt: skip
    kind = TRANSLATORS.get(made.kind)
    return Target(
        _defence(cfg, system, sets),
        None if cfg.source is None else _defence(cfg, open_system(cfg.source), sets),
        sets,
        *sets.tested(cfg.images),
        made.recipe.eps if cfg.eps is None else cfg.eps,
        cfg.random if kind is None else kind.random,
    )


def _defence(cfg: EvaluateConfig, system: System, sets: Sets) -> Defence:
    """Put the networks of a run behind the gate that is asked for."""
    features = translation.as_features(system.encoder), translation.as_features(system.classifier)
    parts = translation.Parts(
        translation.as_logits(system.classifier), system.translate, features, sets.valid.image
    )
    if cfg.gate == "always":
        gate = Gate(jax.tree_util.Partial(always), jnp.float32(0.0))
    elif cfg.gate == "grouped":
        gate = translation.grouped_gate(features[0], sets.train, sets.test, cfg.seed)
    else:
        score = translation.detectors(parts, batch_subset(sets.train, cfg.fit_images))[cfg.gate]
        gate = translation.calibrated(score, parts.calibration, rate=cfg.rate, distance=cfg.gate in DISTANCES)
    return Defence(parts.f, parts.translate, gate, features)


def _attacked(
    cfg: EvaluateConfig, run: runtime.Run, mode: str, target: Target, samples: int | None, stop: Stop
) -> list[Arrays]:
    """Run the attacks that have left no file yet; read those that have."""
    steps = (cfg.averaged_steps if samples else None) or cfg.steps
    plan = gated_cases.static() + gated_cases.adaptive(
        int(target.test.label.max()) + 1, steps=steps, restarts=cfg.restarts, penalties=cfg.penalties,
        targets=cfg.targets, queries=cfg.queries, estimates=cfg.estimates,
        matches=3 if target.defence.features else 0,
    )  # fmt: skip
    plan += gated_cases.transferred(steps) if target.source is not None else ()
    plan = _chosen(cfg, plan, cfg.averaged_only if samples else ())
    done, began, pool = [], time.monotonic(), batch_subset(target.sets.valid, 1000)

    def attack(name: str) -> Arrays:
        found = purifier.evaluate(
            jax.random.key(cfg.seed), target.defence, target.test.image, target.test.label,
            Threat("linf", target.eps), [case for case in plan if case.attack == name],
            batch_size=cfg.batch_size, samples=samples, chunk_size=cfg.chunk_size, source=target.source,
            pool=(pool.image, pool.label),
        )  # fmt: skip
        left = 100 * found.robust().mean()
        runtime.say(f"{mode}: {name}: accuracy {left:.1f} %, {time.monotonic() - began:.0f} s")
        return defence_results.in_arrays(found) | {"points": found.x[0]}

    for name in dict.fromkeys(case.attack for case in plan):
        file = f"{mode} {name}".replace(" ", "_").replace(",", "")
        found = run.cached(f"attacks/{file}", lambda name=name: attack(name))
        assert found is not None
        done.append(found)
        if stop.requested:
            runtime.say("stopped; the same command goes on with the next attack")
            raise Stopped(stop.exit_code)
    return done


def _chosen(
    cfg: EvaluateConfig, plan: Sequence[GatedCase], averaged: tuple[str, ...]
) -> tuple[GatedCase, ...]:
    """Keep the attacks that were asked for, and of those the ones that the gate gives a meaning."""
    only = averaged or cfg.only
    if cfg.gate == "grouped":
        plan = [case for case in plan if case.attack in ("PGD on f", "A3 gate bypass")]
    return tuple(
        case
        for case in plan
        if (not only or case.attack.startswith(only)) and case.attack[:2] not in cfg.exempt
    )


def _pgd_points(folder: pathlib.Path) -> np.ndarray | None:
    for path in sorted((folder / "attacks").glob("*_PGD_on_f.npz"))[:1]:
        with np.load(path) as file:
            return file["points"]
    return None
