"""Evaluate detectors by OpenOOD v1.5's protocol, with attacks on both sides beside the clean numbers.

    python -m experiments.ood_detection.openood cifar10 --root data --source.checkpoint best.ckpt
        --source.architecture resnet18 --source.normalisation cifar10 --out runs/openood
    python -m experiments.ood_detection.openood cifar10 --scores results/cifar10/scores --out runs/openood_scores

The root is OpenOOD's data folder: benchmark_imglist, images_classic and images_largescale. Sets, their order, the
preprocessing, the search of settings on validation images and the metrics are OpenOOD's: FPR@95, AUROC, AUPR_IN,
AUPR_OUT and accuracy of every OOD set, near and far averages, and with --full-spectrum those with covariate-shifted
images as ID. Several checkpoints of one architecture, joined by commas, are a deep ensemble.

Beside them stand the AUROC with ID images, OOD images and both attacked, of --attack-images images of each set.

The folder holds ood/DETECTOR.csv in OpenOOD's form; every score, scores/NETWORK/DETECTOR/CASE/SET.npz with conf, pred
and label; what was chosen, searches/NETWORK/DETECTOR.json; metrics.json and report.html. Killed, it goes on from there.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

from experiments.ood_detection import openood_data, openood_results, scoring
from experiments.ood_detection.config import OPENOOD_PRESETS as PRESETS
from experiments.ood_detection.config import OpenoodConfig, file_name
from experiments.shared import command_line, report_pieces
from robustjax import runtime
from robustjax.runtime import strict_json
from robustjax.runtime.provenance import made_with, plain
from robustjax.runtime.report import Report

MAY_DIFFER = (
    "out", "root", "resamples", "sets", "detectors", "attacks", "radii", "attack_images", "batch_size", "full_spectrum",
    "masking_checks",
)  # fmt: skip


def main(cfg: OpenoodConfig) -> int:
    """Compute the scores that are missing, then the metrics and the report."""
    out = pathlib.Path(cfg.out)
    if cfg.scores is not None:
        found = openood_results.of_folder(cfg, pathlib.Path(cfg.scores))
        return finish(cfg, out, {pathlib.Path(cfg.scores).name: (found, {})}, {}, {})

    # --- images and network ---
    runtime.one_device_per_core()
    images = openood_data.load(cfg)
    network = openood_data.network(cfg, images.test)
    few = openood_data.attacked(cfg, images)
    on_few = network._replace(title=f"{network.title}_attacked_{cfg.attack_images}")
    whole, part = cfg.evaluation(attacked=False), cfg.evaluation(attacked=True)
    scoring.require(whole, [network], images)

    # --- scores ---
    flags, table = {}, {}
    with runtime.Run(cfg.out, cfg, may_differ=MAY_DIFFER) as run:
        scoring.same_network(run, network, images.test)
        for _, name in runtime.progress(cfg.detectors, total=len(cfg.detectors), label="detectors"):
            clean = scoring.Scoring(whole, run, images, network, name, scoring.Corrupted(whole, images.sets))
            clean.all()
            attacks: dict[str, Any] = {}
            if cfg.attacks and cfg.radii:
                one = scoring.Scoring(
                    part, run, few, on_few, name, scoring.Corrupted(part, few.sets), like=clean
                )
                one.all()
                flags[name] = one.flags()
                folder = out / "scores" / on_few.title / file_name(name)
                attacks = openood_results.under_attack(
                    cfg,
                    _read(folder / "clean", few),
                    {case: _read(folder / case, few) for case in part.cases()},
                )
            folder = out / "scores" / network.title / file_name(name) / "clean"
            table[name] = openood_results.of_folder(cfg, folder), attacks
            says = openood_results.summary_row(name, *table[name])
            runtime.say("  ".join(f"{key} {value}" for key, value in says.items()))

    # --- metrics and report ---
    return finish(cfg, out, table, flags, {"network": network.about, "sets": images.sets})


def finish(
    cfg: OpenoodConfig,
    out: pathlib.Path,
    table: Mapping[str, tuple[dict[str, Any], dict[str, Any]]],
    flags: Mapping[str, Any],
    about: dict[str, Any],
) -> int:
    """Write metrics.json, the tables and the report."""
    sets = about.pop("sets", {})
    report = Report(f"OpenOOD v1.5, {cfg.benchmark}", cfg)
    if sets:
        report.text(report_pieces.images(*sets.values()))
    report.table(
        [openood_results.summary_row(name, *it) for name, it in table.items()],
        caption="In per cent. Attacked: AUROC of the images that are attacked, clean and with ID images, OOD images "
        "and both attacked: upper bounds of the truth.",
    )
    raised = [
        f"{name}, {attack}: {flag.says}"
        for name, by_attack in flags.items()
        for attack, seen in by_attack.items()
        for flag in seen
        if flag.raised
    ]
    if raised:
        report.text("Signs that an attack is weaker than it should be: " + "; ".join(raised))
    for name, (found, attacks) in table.items():
        report.section(name)
        for kind in ("clean", "full spectrum"):
            if kind in found:
                rows = openood_results.rows_of(cfg, found, kind)
                report.table(rows, caption=f"{kind}, in per cent: FPR at 95 % of OOD images found.")
                suffix = "" if kind == "clean" else "_full_spectrum"
                openood_results.write_csv(out / "ood" / f"{file_name(name)}{suffix}.csv", rows)
        for case, it in attacks.items():
            report.table(attack_rows(it), caption=f"{case.replace('_', ' ')}: AUROC in per cent.")
    facts = {"made_with": made_with(), "config": plain(cfg), **about}
    facts["sets"] = {name: plain(split.info) for name, split in sets.items()}
    facts["metrics"] = {name: {**found, "attacked": attacks} for name, (found, attacks) in table.items()}
    facts["flags"] = {name: plain(seen) for name, seen in flags.items()}
    strict_json.write(out / "metrics.json", facts)
    for name, (found, _) in table.items():
        runtime.say(f"{name}")
        for row in openood_results.rows_of(cfg, found):
            runtime.say("  " + "  ".join(f"{value:>10}" for value in row.values()))
    runtime.say(f"report: {report.write(out / 'report.html')}")
    return 0


def attack_rows(found: Mapping[str, Any]) -> list[dict[str, str]]:
    """Tabulate one attack: every set, near and far."""
    entries = {**found["sets"], **{f"{k}ood": found[k] for k in ("near", "far") if k in found}}
    rows = []
    for name, it in entries.items():
        row = {"dataset": name}
        for side in ("clean", "in", "out", "both"):
            row[side] = f"{100 * it[f'auroc_{side}']:.2f}"
        if "auroc_both interval" in it:
            row["both"] += " ({:.2f} to {:.2f})".format(*(100 * v for v in it["auroc_both interval"]))
        rows.append(row)
    return rows


def _read(folder: pathlib.Path, images: scoring.Images) -> dict[str, openood_results.Scored]:
    return {name: openood_results.read(folder / f"{file_name(name)}.npz") for name in images.sets}


if __name__ == "__main__":
    command_line.script(main, PRESETS, __doc__)
