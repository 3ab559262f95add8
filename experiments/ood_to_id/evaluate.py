r"""Attack a trained translation system, or any purifier behind any gate, and say what may be printed of it.

    python -m experiments.ood_to_id.evaluate digits --run runs/translator --out runs/translator_judged
    python -m experiments.ood_to_id.evaluate standard --run runs/translator_mnist --copy runs/another --out runs/judged
    python -m experiments.ood_to_id.evaluate standard \
        --function mypackage.net:defence --dataset mnist --eps 0.3 --out runs/mine

--run is a folder of ood_to_id.train, whose encoder, classifier and --gate decide what is translated; --copy another
one, for attacks that transfer. --function names a function without arguments that returns a
`robustjax.ood.translate.Defence` of your own: f, T and a gate with its threshold, in JAX. Static attacks (TM0), queries
(TM1), f and T known (TM2) and everything known (TM3) are run, each judged by the hard defence; then radius 1. A
robust accuracy is printed only if the evaluation supports it, and the line says why not otherwise.

--gate always translates every image, so that what is left is the translator's own; --gate sibling compares, and only
compares, one decision for ten images as related code makes it. What a defence is worth that refuses what the gate
stops, instead of translating it, stands in a table of its own.

Random translators (ddpm) are attacked with a fixed draw, and with the mean of --passes draws in every gradient
(--averaged-only and --averaged-steps say what of it is affordable); what was found is then submitted --resubmissions
times. Every attack is kept when it is done: the same command goes on.
"""

import dataclasses
import importlib
import json
import pathlib
import time
from collections.abc import Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from experiments.ood_to_id import evaluate_report, extra_measurements, measure, run_folders
from experiments.ood_to_id import images as translator_sets
from experiments.ood_to_id.measure import Arrays, Parts
from experiments.ood_to_id.networks import picked
from experiments.shared import command_line
from experiments.shared.fields import Fraction
from robustjax import runtime
from robustjax.evaluation import defences, gated_cases, headline
from robustjax.evaluation.assessments import Assessment, joined
from robustjax.ood.gates import Gate, always
from robustjax.ood.translate import Defence
from robustjax.runtime.provenance import made_with, plain
from robustjax.runtime.snapshot import in_bytes
from robustjax.runtime.stopping import Stop, stopping
from robustjax.types import Batch

GateName = Literal[
    "SSD", "Mahalanobis of f", "nearest neighbours", "max softmax", "energy", "always", "sibling"
]
ON_GATES = ("A2", "A3", "A4")  # attacks that make no sense where everything is translated


@dataclasses.dataclass(frozen=True)
class Config:
    """Attack a defence with and without knowledge of it."""

    run: str | None = "runs/translator"  # a folder of ood_to_id.train
    function: str | None = None  # module:function that returns a Defence, instead of --run
    copy: str | None = None  # a run folder of an independent copy, for attacks that transfer
    dataset: str | None = None  # for --function; that of the run by default
    gate: GateName = "SSD"
    rate: Fraction = 0.05  # of held-out training images that the gate routes
    eps: Fraction | None = None  # linf; that of the run by default
    images: int = 1000  # test images
    fitted: int = 10000  # training images that detectors are fitted on
    steps: int = 100
    restarts: int = 5  # of cross-entropy through the translator and of selective PGD
    targets: int = 9  # of targeted DLR
    penalties: tuple[float, ...] = (1.5, 15.0, 150.0)  # on the gate, of A2 and A3
    queries: int = 5000
    estimates: int = 100  # of SPSA, 64 queries each
    only: tuple[str, ...] = ()  # attacks to run, by how their names begin: A1, A3, PGD; all by default
    passes: int = 20  # draws of a random translator in every gradient; 0 for attacks on a fixed draw alone
    averaged_only: tuple[str, ...] = ()  # attacks on the mean of draws; those of --only by default
    averaged_steps: int | None = None  # of those; --steps by default
    resubmissions: int = 20
    random: bool = False  # whether the translator of --function is
    batch_size: int = 256
    seed: int = 0
    out: str = "runs/translator_judged"
    data_dir: str | None = None

    def check(self) -> None:
        """Refuse what cannot be meant, before any work."""
        if (self.run is None) == (self.function is None):
            raise ValueError("--run and --function: give one of them; --run None goes with --function")
        if self.function is not None and (self.dataset is None or self.eps is None):
            raise ValueError("--function needs --dataset and --eps")
        for name in ("images", "fitted", "steps", "restarts", "batch_size", "resubmissions"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} is {getattr(self, name)}, must be at least 1")
        if self.passes < 0 or (self.averaged_steps is not None and self.averaged_steps < 1):
            raise ValueError(
                f"--passes is {self.passes} and --averaged-steps {self.averaged_steps}, must be at least 0 and 1"
            )
        if self.gate == "sibling" and self.run is None:
            raise ValueError("--gate sibling goes with --run: a function has a gate of its own")


PRESETS = {
    "standard": Config(),
    "digits": Config(queries=1000, estimates=20, targets=3, batch_size=128),
    "smoke": Config(
        images=8, fitted=64, steps=2, restarts=1, targets=0, queries=1, estimates=0, passes=2, resubmissions=2,
        batch_size=8, only=("PGD", "A1"),
    ),
}  # fmt: skip
MAY_DIFFER = ("out", "data_dir", "only", "averaged_only")


def main(cfg: Config) -> int:
    """Attack, attack by attack, then tell."""
    defence, copy, sets, eps, random = subject(cfg)
    test = picked(sets.test, slice(cfg.images))
    given, exempt = defences.as_argument(defence), ON_GATES if cfg.gate == "always" else ()
    with runtime.Run(cfg.out, cfg, may_differ=MAY_DIFFER) as run, stopping() as stop:
        modes: dict[str, int | None] = {"fixed draw" if random else "deterministic": None}
        if random and cfg.passes:
            modes[f"mean of {cfg.passes} draws"] = cfg.passes
        found: dict[str, Assessment] = {}
        submissions: dict[str, list[dict[str, str]]] = {}
        for mode, passes in modes.items():
            parts = attacked(cfg, run.folder, mode, defence, copy, sets, test, eps, passes, stop)
            if parts is None:
                runtime.say("stopped; the same command goes on with the next attack")
                return stop.exit_code
            if cfg.gate == "sibling":
                return compared(cfg, defence, test, eps, parts)
            found[mode] = joined([measure.from_arrays(part) for part in parts])
            if random:
                found[mode], submissions[mode] = extra_measurements.resubmitted(
                    given, test, parts, found[mode], times=cfg.resubmissions, batch_size=cfg.batch_size
                )
    aside = extra_measurements.beside(run.folder, defence, test, eps)
    mode, worst = min(found.items(), key=lambda item: item[1].robust().mean())
    sweep = [one for one in measure.sweep(cfg.steps) if not one.attack.startswith(exempt or ("-",))]
    at_one = measure.attacked(defence, test, 1.0, sweep, seed=cfg.seed, batch_size=cfg.batch_size)
    left = float(at_one.robust().mean())
    calibration = None if cfg.function else sets.valid.image
    single = measure.alone(given, test.image[:16], key=jax.random.key(cfg.seed), passes=modes[mode])
    head = measure.told(worst, test, calibration, single, left, exempt)
    flags = headline.masking(worst, measure.probes(given, test, eps))
    facts = {
        "made_with": made_with(), "config": plain(cfg), "headline": head.says,
        **evaluate_report.facts(found, flags, left, eps), "beside": aside, "submissions": submissions,
    }  # fmt: skip
    runtime.write_whole(pathlib.Path(cfg.out) / "results.json", json.dumps(facts, indent=1) + "\n")
    for mode, one in found.items():
        for row in evaluate_report.main_rows(one):
            print(f"{mode}: {row['quantity']}: {row['found %']}")
    for row in (*aside, *(row for rows in submissions.values() for row in rows)):
        print("; ".join(f"{name} {value}" for name, value in row.items()))
    print(head.says)
    place = evaluate_report.page(cfg, found, head, flags, facts, test).write(
        pathlib.Path(cfg.out) / "report.html"
    )
    runtime.say(f"report: {place}")
    return 0


def compared(cfg: Config, defence: Defence, test: Batch, eps: float, parts: list[Arrays]) -> int:
    """Tell what one decision for ten images makes of attacks, beside the same gate image by image: no headline."""
    points = {str(part["attacks"][0]): part["points"] for part in parts}
    rows = extra_measurements.sibling_rows(defence, test, points, eps)
    facts = {
        "made_with": made_with(),
        "config": plain(cfg),
        "headline": evaluate_report.SIBLING,
        "eps": eps,
        "sibling": rows,
    }
    runtime.write_whole(pathlib.Path(cfg.out) / "results.json", json.dumps(facts, indent=1) + "\n")
    for row in rows:
        print("; ".join(f"{name} {value}" for name, value in row.items()))
    print(evaluate_report.SIBLING)
    place = evaluate_report.comparison(cfg, rows).write(pathlib.Path(cfg.out) / "report.html")
    runtime.say(f"report: {place}")
    return 0


def subject(cfg: Config) -> tuple[Defence, Defence | None, translator_sets.Sets, float, bool]:
    """Build the defence, its copy, the images, the radius, and whether the translator is random."""
    if cfg.function is not None:
        module, _, name = cfg.function.partition(":")
        try:
            built = getattr(importlib.import_module(module), name)()
        except (ImportError, AttributeError) as error:
            raise ValueError(f"--function is {cfg.function!r}: {error}") from None
        if not isinstance(built, Defence):
            raise ValueError(
                f"--function gave {type(built).__name__}, must be a robustjax.ood.translate.Defence"
            )
        sets = images(cfg, str(cfg.dataset), cfg.seed)
        return built, None, sets, float(cfg.eps or 0.0), cfg.random
    system = run_folders.opened(str(cfg.run))
    sets = images(cfg, system.config["dataset"], system.config["seed"], system.config["size"])
    eps = system.config["recipe"]["eps"] if cfg.eps is None else cfg.eps
    defence = built_from(cfg, system, sets)
    copy = None if cfg.copy is None else built_from(cfg, run_folders.opened(cfg.copy), sets)
    return defence, copy, sets, eps, system.config["kind"] == "ddpm"


def images(cfg: Config, dataset: str, seed: int, size: int | None = None) -> translator_sets.Sets:
    """Load the images as they were trained on."""
    if dataset == "digits":
        return translator_sets.digits(seed)
    return translator_sets.prepared(dataset, data_dir=cfg.data_dir, size=size)


def built_from(cfg: Config, system: run_folders.System, sets: translator_sets.Sets) -> Defence:
    """Put the networks of a run behind the gate that is asked for."""
    eyes = measure.as_features(system.encoder), measure.as_features(system.classifier)
    parts = Parts(measure.as_logits(system.classifier), system.translate, eyes, sets.valid.image)
    if cfg.gate == "always":
        gate = Gate(jax.tree_util.Partial(always), jnp.float32(0.0))
    elif cfg.gate == "sibling":
        gate = extra_measurements.sibling_gate(eyes[0], sets.train, sets.test, cfg.seed)
    else:
        score = measure.detectors(parts, picked(sets.train, slice(cfg.fitted)))[cfg.gate]
        distance = cfg.gate in get_args(GateName)[:3]
        gate = measure.calibrated(score, parts.calibration, rate=cfg.rate, distance=distance)
    return Defence(parts.f, parts.translate, gate, eyes)


def attacked(
    cfg: Config, folder: pathlib.Path, mode: str, defence: Defence, copy: Defence | None, sets: Any, test: Batch,
    eps: float, passes: int | None, stop: Stop,
) -> list[Arrays] | None:  # fmt: skip
    """Run the attacks that have left no file yet; None if asked to stop before the end."""
    matches = 3 if defence.features else 0
    steps = (cfg.averaged_steps if passes else None) or cfg.steps
    plan = gated_cases.static() + gated_cases.adaptive(
        int(test.label.max()) + 1, steps=steps, restarts=cfg.restarts, penalties=cfg.penalties, targets=cfg.targets,
        queries=cfg.queries, estimates=cfg.estimates, matches=matches,
    )  # fmt: skip
    plan += gated_cases.transferred(steps) if copy is not None else ()
    plan = chosen(cfg, plan, cfg.averaged_only if passes else ())
    names, done, began = list(dict.fromkeys(one.attack for one in plan)), [], time.monotonic()
    for name in names:
        path = folder / "attacks" / f"{mode} {name}.npz".replace(" ", "_").replace(",", "")
        if not path.exists():
            found = measure.attacked(
                defence, test, eps, [one for one in plan if one.attack == name], seed=cfg.seed,
                batch_size=cfg.batch_size, passes=passes, copy=copy,
                pool=(sets.valid.image[:1000], sets.valid.label[:1000]),
            )  # fmt: skip
            runtime.write_whole(
                path, in_bytes(measure.in_arrays(found) | {"points": found.x[0]}, compressed=True)
            )
            left = 100 * found.robust().mean()
            runtime.say(f"{mode}: {name}: accuracy {left:.1f} %, {time.monotonic() - began:.0f} s")
            if stop.requested:
                return None
        with np.load(path) as file:
            done.append(dict(file))
    return done


def chosen(
    cfg: Config, plan: Sequence[gated_cases.GatedCase], averaged: tuple[str, ...]
) -> tuple[gated_cases.GatedCase, ...]:
    """Keep the attacks that were asked for, and of those the ones that the gate gives a meaning."""
    exempt = ON_GATES if cfg.gate == "always" else ()
    only = averaged or cfg.only
    if cfg.gate == "sibling":
        plan = [one for one in plan if one.attack in ("PGD on f", "A3 gate bypass")]
    return tuple(
        one for one in plan if (not only or one.attack.startswith(only)) and one.attack[:2] not in exempt
    )


if __name__ == "__main__":
    command_line.script(main, PRESETS, __doc__)
