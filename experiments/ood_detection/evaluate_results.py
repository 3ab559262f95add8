"""Results of ood_detection.evaluate: every metric of every case, and checks that no attack was too weak."""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.ood_detection.config import EvaluateConfig, file_name
from robustjax.analysis.detection import of_one_network
from robustjax.analysis.intervals import proportion
from robustjax.attacks.flags import Flag
from robustjax.bounds.confidence import guaranteed_auroc
from robustjax.data.sources import Split
from robustjax.evaluation.scores import smoothed_auroc
from robustjax.ood import compat, conformal, metrics, protocols
from robustjax.runtime.provenance import plain

Scores = Mapping[str, np.ndarray]  # conf, pred, confidence, label, image
Sets = Mapping[str, Split]  # test images, validation images if there are any, and the OOD sets by name
Flags = Mapping[tuple[str, str], Mapping[str, Sequence[Flag]]]  # by network and detector, by attack


class Files:
    """The scores of one detector of one network."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder

    def __call__(self, case: str, name: str) -> Scores:
        """Read the scores of a set in a case."""
        path = self.folder / case / f"{file_name(name)}.npz"
        with np.load(path) as file:
            return dict(file)


def measured(cfg: EvaluateConfig, files: Files, detector: str, *, held_out: bool = True) -> dict[str, Any]:
    """Compute every metric of one detector: on ID images, on each OOD set, and the mean over the sets.

    Args:
      cfg: what was evaluated.
      files: the scores.
      detector: by name.
      held_out: whether there are validation images; without them there is no conformal threshold, and None says so.
    """
    inside = files("clean", "test")
    right, cases = inside["pred"] == inside["label"], cfg.cases()
    exact = metrics.threshold_keeping(inside["conf"], 1 - cfg.id_rejected)
    safe = (
        conformal.threshold(files("clean", "validation")["conf"], miss=cfg.id_rejected) if held_out else None
    )
    if safe is not None and not np.isfinite(safe):
        safe = None  # too few validation images for any

    def at_conformal(share: Callable[[np.ndarray, float], float], scores: np.ndarray) -> float | None:
        return None if safe is None else share(scores, safe)

    found: dict[str, Any] = {
        "id": {"accuracy": plain(proportion(right)), "threshold": exact, "conformal": safe}
    }
    found["id"]["rejected at the conformal threshold"] = at_conformal(metrics.fnr, inside["conf"])
    found["id"]["mean maximum confidence"] = float(inside["confidence"].mean())
    found["id"]["right and accepted"] = metrics.end_to_end_accuracy(right, inside["conf"], exact)
    for case in cases:
        low = files(case, "test")
        found["id"][case] = {
            "right and accepted": metrics.end_to_end_accuracy(
                low["pred"] == low["label"], low["conf"], exact
            ),
            "rejected at the conformal threshold": at_conformal(metrics.fnr, low["conf"]),
            "mean maximum confidence": float(low["confidence"].mean()),
        }
    for name in cfg.ood_sets:
        clean = files("clean", name)
        a, outside = inside["conf"], clean["conf"]
        entry: dict[str, Any] = {
            "clean": {
                **metrics.summary(a, outside),
                "auroc interval": interval(a, outside, cfg.resamples),
                "mean maximum confidence": float(clean["confidence"].mean()),
                "accepted at the conformal threshold": at_conformal(metrics.fpr, outside),
                "compat": {m.__name__: m(a, outside) for m in (compat.aloe, compat.atom, compat.openood)},
            }
        }
        for case in cases:
            attacked = files(case, name)
            low, high = files(case, "test")["conf"], attacked["conf"]
            entry[case] = {
                **protocols.under_attack(a, outside, low, high, share=1 - cfg.id_rejected),
                "auroc_in interval": interval(low, outside, cfg.resamples),
                "auroc_out interval": interval(a, high, cfg.resamples),
                "auroc_both interval": interval(low, high, cfg.resamples),
                "mean maximum confidence": float(attacked["confidence"].mean()),
                "accepted at the conformal threshold": at_conformal(metrics.fpr, high),
                "compat": {m.__name__: m(low, high) for m in (compat.aloe, compat.atom, compat.openood)},
            }
        if cfg.certify and detector == "msp":
            # The margin's own probability, in float64: bounds are on its logarithm.
            known = -np.logaddexp(0.0, -a.astype(np.float64))
            for eps in cfg.radii:
                low, high = (files(f"certified_{eps:.4g}", n)["conf"] for n in ("test", name))
                entry[f"certified_{eps:.4g}"] = {
                    "auroc_out": guaranteed_auroc(known, high),
                    "auroc_both": guaranteed_auroc(low, high),
                }
        if cfg.sigma:
            near, far = (files("smoothed", n)["samples"] for n in ("test", name))
            moved = {
                eps: (
                    files(f"smoothed_{eps:.4g}", "test")["conf"],
                    files(f"smoothed_{eps:.4g}", name)["conf"],
                )
                for eps in cfg.smooth_radii
            }
            entry["smoothed"] = smoothed_auroc(near, far, moved, sigma=cfg.sigma)
        found[name] = entry
    found["mean"] = {
        case: protocols.over_sets({n: numbers(found[n][case]) for n in cfg.ood_sets})
        for case in found[cfg.ood_sets[0]]
        if case != "smoothed"
    }
    return found


def numbers(entry: Mapping[str, Any]) -> dict[str, float]:
    """Keep what is one number."""
    return {name: value for name, value in entry.items() if isinstance(value, int | float)}


def interval(id_scores: np.ndarray, ood_scores: np.ndarray, resamples: int) -> list[float]:
    """Compute the 95 % bootstrap interval of an AUROC over images, ID and OOD drawn apart."""
    found = of_one_network(metrics.auroc, id_scores, {"": ood_scores}, resamples=resamples)
    return [found.low, found.high]


def main_rows(table: Mapping[str, Any], cases: Sequence[str]) -> list[dict[str, Any]]:
    """Tabulate AUROCs, mean over the OOD sets: clean, and with ID images, OOD images and both attacked."""
    rows = []
    for network, detectors in table.items():
        for detector, found in detectors.items():
            mean = found["mean"]
            row = {
                "network": network,
                "detector": detector,
                "accuracy": f"{found['id']['accuracy']['value']:.3f}",
                "clean": f"{mean['clean']['auroc']:.3f}",
            }
            for case in cases:
                three = (mean[case][f"auroc_{side}"] for side in ("in", "out", "both"))
                row[f"{case.replace('_', ' ')}: in, out, both"] = ", ".join(f"{v:.3f}" for v in three)
                proved = mean.get(f"certified_{case.rpartition('_')[2]}")
                if proved and case.startswith("adaptive"):
                    row[f"certified {case.rpartition('_')[2]}: out, both"] = (
                        f"{proved['auroc_out']:.3f}, {proved['auroc_both']:.3f}"
                    )
            rows.append(row)
    return rows


def weak_attacks(cfg: EvaluateConfig, table: Mapping[str, Any], flags: Flags) -> list[str]:
    """List what could not be if every attack were as strong as it should be, gradient-masking checks first."""
    found, cases = [], cfg.cases()
    for (network, detector), by_attack in flags.items():
        for attack, seen in by_attack.items():
            found += [
                f"{network}, {detector}, {attack}: {flag.name}: {flag.says}" for flag in seen if flag.raised
            ]
    for network, detectors in table.items():
        for detector, entry in detectors.items():
            for name in cfg.ood_sets:
                says, it = f"{network}, {detector}, {name}", entry[name]
                clean = it["clean"]["auroc"]
                for side in ("in", "out", "both"):
                    value = {c: it[c][f"auroc_{side}"] for c in cases}
                    found += [
                        f"{says}: {c} raises AUROC ({side})"
                        for c in cases
                        if value[c] > clean + 1e-9 and c.split("_")[0] != "aloe"
                    ]
                    for eps in cfg.radii:
                        ours = value.get(f"adaptive_{eps:.4g}")
                        for kind in cfg.attacks:
                            other = value[cfg.attack_case(kind, eps)]
                            if ours is not None and other < ours - 0.01:
                                found.append(
                                    f"{says}: {kind} at {eps:.4g} is stronger than the adaptive attack ({side}): "
                                    f"{other:.3f} below {ours:.3f}"
                                )
                for eps in cfg.radii:
                    proved = it.get(f"certified_{eps:.4g}")
                    for kind in cfg.attacks:
                        for side in ("out", "both"):
                            if (
                                proved
                                and proved[f"auroc_{side}"]
                                > it[cfg.attack_case(kind, eps)][f"auroc_{side}"] + 1e-6
                            ):
                                found.append(f"{says}: certified above empirical at {eps:.4g}")
                for eps in cfg.smooth_radii if cfg.sigma else ():
                    at = it["smoothed"][f"{eps:.4g}"]
                    if any(at[f"certified_{side}"] > at[f"auroc_{side}"] for side in ("out", "both")):
                        found.append(f"{says}: certified above empirical at l2 {eps:.4g}, smoothed")
    return found
