r"""Attack a classifier with AutoAttack or a suite of your own: its accuracy, image by image, with pictures.

    python -m experiments.classification.attack standard --source.run runs/mnist --eps 0.3 --images 1000
    python -m experiments.classification.attack standard --source.checkpoint wrn.pt \
        --source.architecture wideresnet28_10 --source.normalisation none --source.dataset cifar10 --eps 8/255
    python -m experiments.classification.attack standard --source.checkpoint Gowal2021Improving_28_10_ddpm_100m.pt \
        --source.known Gowal2021Improving_28_10_ddpm_100m --out runs/gowal2021
    python -m experiments.classification.attack standard --source.function mypackage.net:logits \
        --source.dataset cifar10 --norm l2 --eps 0.5
    python -m experiments.classification.attack curve --source.run runs/cifar10 --eps 16/255 --radii 8

An image counts as robust if no attack misclassified it, there or at a smaller radius. Each attack takes the images
that are still robust, and a killed run goes on where it was when started again with the same --out. The folder gets
results.npz and results.json (every image, every attack), report.html and figures/. --given FOLDER goes on from an
earlier report on the same images: more attacks can only lower the number. --source.known names an entry of
RobustBench's model zoo and says everything else about it, radius and published accuracy too. --attacks takes names and
`module:name`, a function of your own: (threat, classes) -> robustjax.attacks.case.Case, or (threat) ->
robustjax.attacks.Solver.
"""

import dataclasses
import pathlib
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.classification.attack_programs import planned as planned
from experiments.classification.attack_report import write_report
from experiments.classification.config import ATTACK_PRESETS as PRESETS
from experiments.classification.config import AttackConfig
from experiments.shared import command_line, network_source
from robustjax import checks, runtime
from robustjax.attacks import fast_suite, masking_checks
from robustjax.catalog import known_checkpoints
from robustjax.data import Split, subsets
from robustjax.evaluation import suite
from robustjax.evaluation.identity import difference, identity
from robustjax.evaluation.results import Results
from robustjax.runtime import result_files, strict_json
from robustjax.runtime.attack_progress import attack_progress
from robustjax.runtime.provenance import digest, made_with, plain
from robustjax.runtime.snapshot import Snapshot
from robustjax.threats import Threat
from robustjax.types import Network, frozen


def main(cfg: AttackConfig) -> None:
    """Attack, check, tabulate, draw."""
    # --- network, images, attacks ---
    runtime.one_device_per_core()
    (norm, largest), known = cfg.ball(), cfg.source.entry_of()
    it = network_source.open_network(cfg.source, cfg.images, cfg.seed)
    test = part_of(it.test, *cfg.part())
    name = f"{cfg.suite}_{norm}_{largest:.4g}"
    out = pathlib.Path(cfg.out or pathlib.Path(cfg.source.run or "") / "attack" / name)
    out.mkdir(parents=True, exist_ok=True)
    cases = partial(cfg.cases, classes=len(test.info.classes))
    who = identity(it.network, it.test.image, it.test.index, random=cfg.source.stochastic)
    about_all = {"network": it.network.about, "data": plain(test.info), "norm": norm, "identity": who}

    # --- attack ---
    mesh = runtime.data_mesh()
    rows = runtime.over_data(mesh) if mesh.size > 1 else None
    arguments = (it.network.params, it.network.state)
    arguments = runtime.place(arguments, mesh) if rows else arguments
    evaluate = suite.over(
        partial(frozen, it.network.model),
        cases,
        reference=partial(frozen, it.reference.model),
        batch_size=cfg.batch_size,
        sharding=rows,
    )
    report = earlier_report(cfg, about_all)
    curve: list[Results] = []
    for i, eps in enumerate(cfg.grid()):
        # The settings of an attack are not in the arrays that a snapshot is checked by.
        settings = digest({"config": plain(cfg), **about_all}, ("config.out", "config.batch_size"))
        memory = Snapshot(out / f"progress_{settings}_{i}.npz")
        if cfg.radii > 1:
            runtime.say(f"{norm} radius {eps:.4g}")
        report = evaluate(
            jax.random.key(cfg.seed), test.image, test.label, Threat(norm, float(eps)), *arguments,
            index=test.index, given=report, every=cfg.every, memory=memory, progress=attack_progress(),
        )  # fmt: skip
        curve.append(report)

    # --- gradient-masking checks ---
    ran = cases(Threat(norm, largest))
    black_box = [case.name for case in ran if case.black_box]
    last = curve[-1]
    flags = checks.joined(it.flags, (checks.answered(last.clean),))
    if known:
        correct = int((last.clean == last.label).sum())
        flags = (*flags, known_checkpoints.doubt(known, correct, len(last.label)))
    if cfg.masking_checks:
        flags = checks.joined(flags, checks_on_few(cfg, it.network, test, last))
    flags = checks.joined(
        flags, masking_checks.from_outcomes(last.attacks, last.outcome, last.margin, black_box=black_box)
    )
    if cfg.suite == "fast":
        flags = checks.joined(flags, (fast_suite.searched(last.outcome),))
        flags = (*flags, *fast_suite.not_enough(flags))

    # --- report ---
    for row in result_files.rows(last):
        runtime.say(f"{row['after']:>10}  {row['accuracy %']:6.2f} %  ({row['95 % interval']})")
    if known:
        runtime.say(known.published())
    for flag in flags:
        if flag.raised:
            runtime.say(f"warning: {flag.name}: {flag.says}")
    passes = sum(int(n) * case.passes for one in curve for n, case in zip(one.steps, ran, strict=True))
    runtime.say(f"{passes:,} forward and backward passes" + compared(cfg, curve, len(test.info.classes)))
    robust = [float(one.robust.mean()) for one in curve]
    about = {
        **about_all,
        "eps": largest,
        "config": plain(cfg),
        "cases": [{"name": case.name, "runs": case.runs, "note": case.note} for case in ran],
        "curve": [{"eps": float(e), "robust": share} for e, share in zip(cfg.grid(), robust, strict=True)],
        "flags": [plain(flag) for flag in flags],
        "passes": passes,
        "made_with": made_with(),
    }
    result_files.write(out, last, about)
    runtime.say(f"report: {write_report(cfg, it.network, test, curve, ran, flags, out)}")
    for left in out.glob("progress_*.npz"):
        left.unlink()


def compared(cfg: AttackConfig, curve: list[Results], classes: int) -> str:
    """Say beside the passes of the fast suite what standard would make."""
    if cfg.suite != "fast":
        return ""
    each = fast_suite.standard_passes(Threat(*cfg.ball()), classes=classes)
    return (
        f"; standard makes {each * sum(int(one.robust.sum()) for one in curve):,} of the robust images alone"
    )


def part_of(split: Split, number: int, parts: int) -> Split:
    """Take part `number` of `parts` of the images, counted from 1."""
    edges = np.linspace(0, len(split.label), parts + 1).astype(int)
    rows = slice(edges[number - 1], edges[number])
    return dataclasses.replace(
        split, image=split.image[rows], label=split.label[rows], index=split.index[rows]
    )


def earlier_report(cfg: AttackConfig, about_all: dict[str, Any]) -> Results | None:
    """Read the report to go on from.

    Raises:
      ValueError: if it is about another network or norm, or at a larger radius.
    """
    if not cfg.given:
        return None
    report, about = result_files.read(cfg.given)
    for name in ("network", "norm"):
        if about.get(name) != strict_json.finite(plain(about_all[name])):
            raise ValueError(f"--given {cfg.given} has {name} {about.get(name)}, must have {about_all[name]}")
    if why := difference(about.get("identity"), about_all["identity"]):
        raise ValueError(f"--given {cfg.given} is about another network of the same name: {why}")
    if about["eps"] > (largest := cfg.ball()[1]):
        raise ValueError(f"--given {cfg.given} is at radius {about['eps']:g}, must be at most {largest:g}")
    return report


def checks_on_few(
    cfg: AttackConfig, network: Network, test: Split, report: Results
) -> tuple[masking_checks.Flag, ...]:
    """Look for masked gradients by small attacks on 64 images classified correctly, of all classes."""
    rows = np.flatnonzero(report.clean == report.label)
    if len(rows) == 0:
        return ()
    rows = rows[subsets.stratified(test.image[rows], test.label[rows], min(64, len(rows)), test.index[rows])]
    x, y = jnp.asarray(suite.as_floats(test.image[rows])), jnp.asarray(test.label[rows])
    threat = Threat(*cfg.ball())
    return masking_checks.checks(jax.random.key(cfg.seed), network.logits_fn, x, y, threat)


if __name__ == "__main__":
    command_line.script(main, PRESETS, __doc__)
