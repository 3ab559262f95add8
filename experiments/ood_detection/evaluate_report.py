"""The report of ood_detection.evaluate: metrics of every case in metrics.json, tables, ROC curves and images."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.ood_detection.config import EvaluateConfig, file_name
from experiments.ood_detection.evaluate_results import Files, Flags, Sets, main_rows, measured, weak_attacks
from experiments.shared import report_pieces
from robustjax import runtime
from robustjax.catalog.score_attacks import score_attack
from robustjax.evaluation.scores import ALPHA, ATTACKED_SAMPLES, QUERIES
from robustjax.ood import metrics
from robustjax.runtime import figures, image_grids, strict_json
from robustjax.runtime.provenance import plain
from robustjax.runtime.report import Report
from robustjax.types import Network


def write(
    cfg: EvaluateConfig,
    networks: Sequence[Network],
    sets: Sets,
    flags: Flags,
    out: pathlib.Path,
    made: dict[str, Any],
) -> None:
    """Write metrics.json and report.html, and say the main numbers."""
    table: dict[str, dict[str, Any]] = {}
    for it in networks:
        for detector in cfg.detectors:
            files = Files(out / "scores" / it.title / file_name(detector))
            table.setdefault(it.title, {})[detector] = measured(
                cfg, files, detector, held_out="validation" in sets
            )
    facts = {
        "made_with": made,
        "config": plain(cfg),
        "networks": {it.title: it.about for it in networks},
        "sets": {name: plain(split.info) for name, split in sets.items()},
        "metrics": table,
        "flags": {f"{network}, {detector}": plain(seen) for (network, detector), seen in flags.items()},
    }
    strict_json.write(out / "metrics.json", facts)
    rows = main_rows(table, cfg.cases())
    for row in rows:
        runtime.say("  ".join(f"{name} {value}" for name, value in row.items()))
    report = build(cfg, networks, sets, table, rows, flags, out)
    runtime.say(f"report: {report.write(out / 'report.html')}")


def build(
    cfg: EvaluateConfig,
    networks: Sequence[Network],
    sets: Sets,
    table: Mapping[str, Any],
    rows: Sequence[dict[str, Any]],
    flags: Flags,
    out: pathlib.Path,
) -> Report:
    """Build the report."""
    test, cases = sets["test"], cfg.cases()
    report = Report(f"Detectors of OOD images under attack: {test.info.name}", cfg)
    report.text(
        f"{len(networks)} networks, {len(cfg.detectors)} detectors, {len(test.label)} test images and "
        f"{', '.join(f'{len(sets[n].label)} of {n}' for n in cfg.ood_sets)}. AUROC is the probability that an ID "
        "image scores above an OOD image: 0.5 for a coin; below that an adversary controls the order. Attacked "
        "numbers are upper bounds, certified ones lower bounds of the truth."
    )
    report.table(
        rows, caption="AUROC, mean over the OOD sets: clean; with ID images, OOD images and both attacked."
    )
    report.text(report_pieces.images(*sets.values()))
    doubts = weak_attacks(cfg, table, flags)
    report.text(
        "Signs that an attack is weaker than it should be: " + "; ".join(doubts)
        if doubts
        else "No sign that an attack is weaker than it should be: none raises an AUROC, none of the others beats the "
        "adaptive attack by more than 0.01, and no certificate exceeds an attack. Gradient-masking checks: "
        + (
            f"none of {sum(len(seen) for one in flags.values() for seen in one.values())} raised."
            if any(flags.values())
            else "not made."
        )
    )
    if cfg.radii and cfg.attacks:
        draw_curves(cfg, report, table)
        draw_rocs(cfg, report, networks, out)
    report.section("Every set")
    for case in ("clean", *cases):
        report.table(set_rows(cfg, table, case), caption=f"{case.replace('_', ' ')}.")
    report.section("Thresholds")
    report.text(
        f"The threshold keeps {100 * (1 - cfg.id_rejected):g} % of the clean test images. "
        + (
            f"The conformal one is found on {len(sets['validation'].label)} validation images and rejects at most "
            f"{100 * cfg.id_rejected:g} % of new ID images on average, whatever the network; too few allow none. "
            if "validation" in sets
            else "There are no validation images, so there is no conformal threshold. "
        )
        + "'Right and accepted' counts images that are classified correctly and kept. The mean maximum confidence "
        "(MMC) is that of the softmax, whatever the detector."
    )
    report.table(threshold_rows(table, cases))
    if cfg.sigma:
        report.section("Smoothed scores")
        report.table(
            smoothed_rows(cfg, table),
            caption=f"The median of the scores of {cfg.samples} copies with noise of {cfg.sigma:g}. Within an l2 "
            "radius no attack can bring its AUROC below the certified number (each image's bounds hold with "
            f"probability {1 - ALPHA:g}); the attack, APGD and {QUERIES} queries of Square on the mean of "
            f"{ATTACKED_SAMPLES} copies, brings it down to the attacked one: the truth lies between the two.",
        )
    if cases:
        report.section("Attacked OOD images")
        draw_images(cfg, report, networks, cases, out)
    report.scope(
        attacked=[f"{it.title}: {json.dumps(it.about)}" for it in networks]
        + [f"scores: {', '.join(cfg.detectors)}"],
        attacks=[
            f"{kind} in {cfg.norm} at {', '.join(f'{e:.4g}' for e in cfg.radii)}"
            + (
                f", {cfg.steps} steps, {cfg.restarts} restarts"
                if not score_attack(kind).published
                else ", as published"
            )
            for kind in cfg.attacks
        ]
        + ([f"{len(cfg.corruption_names)} corruptions at 5 severities"] if cfg.corruption else [])
        + (["and the first attack around the worst of them"] if cfg.composition else []),
        not_attacked=[
            "other norms and larger radii",
            "other OOD sets",
            *(() if set(cfg.attacks) & {"adaptive", "strong"} else ("black-box attacks on the score",)),
        ],
    )
    return report


def set_rows(cfg: EvaluateConfig, table: Mapping[str, Any], case: str) -> list[dict[str, Any]]:
    """Tabulate a case for every set."""
    rows = []
    for network, detectors in table.items():
        for detector, found in detectors.items():
            for name in (*cfg.ood_sets, "mean"):
                it, row = found[name][case], {"network": network, "detector": detector, "OOD set": name}
                if case == "clean":
                    row |= {"AUROC": within(it, "auroc")} | {
                        says: f"{it[m]:.3f}"
                        for m, says in {
                            "fpr_id95": "FPR at 95 % of ID", "fpr_ood95": "ID rejected at 95 % of OOD",
                            "aupr_in": "AUPR in", "aupr_out": "AUPR out", "detection_error": "detection error",
                            "tie_mass": "ties", "mean maximum confidence": "MMC",
                        }.items()
                    }  # fmt: skip
                else:
                    row |= {f"AUROC {s}": within(it, f"auroc_{s}") for s in ("in", "out", "both")} | {
                        "MMC": f"{it['mean maximum confidence']:.3f}",
                        "FPR recalibrated": f"{it['fpr_recalibrated']:.3f}",
                        "FPR at the clean threshold": f"{it['fpr_clean_threshold']:.3f}",
                        "FNR there": f"{it['fnr_clean_threshold']:.3f}",
                    }
                rows.append(row)
    return rows


def within(it: Mapping[str, Any], name: str) -> str:
    """Write a number with its interval if it has one."""
    low, high = it.get(f"{name} interval", (None, None))
    return f"{it[name]:.3f}" + ("" if low is None else f" ({low:.3f} to {high:.3f})")


def smoothed_rows(cfg: EvaluateConfig, table: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Tabulate what is certified of smoothed scores, and what an attack leaves of them."""
    rows = []
    for network, detectors in table.items():
        for detector, found in detectors.items():
            for name in cfg.ood_sets:
                it = found[name]["smoothed"]
                for eps in cfg.smooth_radii:
                    row = {
                        "network": network,
                        "detector": detector,
                        "OOD set": name,
                        "clean": f"{it['auroc']:.3f}",
                    }
                    row["l2"] = f"{eps:.4g}"
                    for side in ("out", "both"):
                        at = it[f"{eps:.4g}"]
                        row[f"{side}: certified"] = f"{at[f'certified_{side}']:.3f}"
                        row[f"{side}: attacked"] = f"{at[f'auroc_{side}']:.3f}"
                    rows.append(row)
    return rows


def threshold_rows(table: Mapping[str, Any], cases: Sequence[str]) -> list[dict[str, Any]]:
    """Tabulate what thresholds do to ID images."""
    rows = []
    for network, detectors in table.items():
        for detector, found in detectors.items():
            on_id = found["id"]
            for case in ("clean", *cases):
                it = on_id if case == "clean" else on_id[case]
                rows.append(
                    {"network": network, "detector": detector, "case": case.replace("_", " ")}
                    | {
                        n: "none" if it[n] is None else f"{it[n]:.3f}"
                        for n in (
                            "right and accepted",
                            "rejected at the conformal threshold",
                            "mean maximum confidence",
                        )
                    }
                )
    return rows


def draw_curves(cfg: EvaluateConfig, report: Report, table: Mapping[str, Any]) -> None:
    """Draw AUROC over the radius of the first detector and attack."""
    detector, kind, x = cfg.detectors[0], cfg.attacks[0], np.array([0.0, *cfg.radii])
    for side, says in (("both", "ID and OOD images"), ("out", "OOD images alone")):
        lines = {}
        for network, detectors in table.items():
            mean = detectors[detector]["mean"]
            y = [
                mean["clean"]["auroc"],
                *(mean[cfg.attack_case(kind, e)][f"auroc_{side}"] for e in cfg.radii),
            ]
            lines[network] = np.array(y)
        report.picture(
            figures.curves(x, lines, xlabel=f"{cfg.norm} radius", ylabel="AUROC", limits=(-0.02, 1.02)),
            caption=f"AUROC of {detector} over the radius of the {kind} attack on {says}, mean over the sets.",
            name=f"auroc_{side}",
        )


def draw_rocs(cfg: EvaluateConfig, report: Report, networks: Sequence[Network], out: pathlib.Path) -> None:
    """Draw ROC curves of the first detector, clean and with both sides attacked, all OOD sets together."""
    detector, case, lines = cfg.detectors[0], cfg.attack_case(cfg.attacks[0], cfg.radii[-1]), {}
    for it in networks:
        files = Files(out / "scores" / it.title / file_name(detector))
        for says, at in (("clean", "clean"), ("attacked", case)):
            a = files(at, "test")["conf"]
            b = np.concatenate([files(at, n)["conf"] for n in cfg.ood_sets])
            lines[f"{it.title}, {says}"] = share(b, a, b), share(a, a, b)
    report.picture(
        figures.roc(lines),
        caption=f"ROC of {detector}: clean, and under {case.replace('_', ' ')} on both sides.", name="roc",
    )  # fmt: skip


def share(of: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Compute the share of scores at or above every threshold, from the highest down."""
    at = np.unique(np.concatenate([a, b]))[::-1]
    return np.concatenate([[0.0], (of.size - np.searchsorted(np.sort(of), at)) / of.size])


def draw_images(
    cfg: EvaluateConfig, report: Report, networks: Sequence[Network], cases: Sequence[str], out: pathlib.Path
) -> None:
    """Show the first images of every OOD set before and after, for the first detector."""
    detector, case = cfg.detectors[0], cases[-1]
    for it in networks:
        files = Files(out / "scores" / it.title / file_name(detector))
        limit = metrics.threshold_keeping(files("clean", "test")["conf"], 1 - cfg.id_rejected)
        for name in cfg.ood_sets:
            before, after = files("clean", name), files(case, name)
            count = len(before["image"])
            captions = [
                f"{a:.1f} → {b:.1f}"
                for a, b in zip(before["conf"][:count], after["conf"][:count], strict=True)
            ]
            report.picture(
                image_grids.attacked(before["image"], after["image"], captions=captions),
                caption=f"{it.title}: OOD images of {name} under {case.replace('_', ' ')}. Below: {detector} before "
                f"and after; above {limit:.1f} an image is taken for ID.",
                name=f"attacked_{it.title}_{file_name(name)}",
            )
