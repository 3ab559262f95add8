"""Results of ood_detection.openood: OpenOOD's metrics, near and far averages, and what attacks leave of them."""

import csv
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.ood_detection.config import OpenoodConfig, file_name
from experiments.ood_detection.evaluate_results import interval, numbers
from robustjax.catalog.openood import BENCHMARKS
from robustjax.checks import reading
from robustjax.ood import compat, metrics, protocols

METRICS = {"fpr": "FPR@95", "auroc": "AUROC", "aupr_in": "AUPR_IN", "aupr_out": "AUPR_OUT", "acc": "ACC"}


class Scored(NamedTuple):
    """Scores of a set as OpenOOD keeps them: larger on ID images, predicted classes, labels (-1 for OOD)."""

    conf: np.ndarray
    pred: np.ndarray
    label: np.ndarray


def read(path: pathlib.Path) -> Scored:
    """Read a file of scores, `conf`, `pred` and `label`.

    Raises:
      ValueError: in one line, if it is not there, damaged, lacks an array, or these differ in length.
    """
    with reading(path, "not a file of scores"), np.load(path) as file:
        missing = [name for name in Scored._fields if name not in file]
        arrays = {name: file[name] for name in Scored._fields if name in file}
    if missing:
        raise ValueError(f"{path}: has no {missing[0]}, must hold conf, pred and label")
    conf, pred, label = (arrays[name] for name in Scored._fields)
    metrics.vector(str(path), conf, 0.0)
    if not conf.shape == pred.shape == label.shape:
        raise ValueError(
            f"{path}: conf, pred and label have shapes {conf.shape}, {pred.shape} and {label.shape}, must be equal"
        )
    return Scored(conf.astype(np.float64), pred, label)


def of_folder(cfg: OpenoodConfig, folder: pathlib.Path) -> dict[str, Any]:
    """Compute the metrics of a folder of scores: test.npz or BENCHMARK.npz, and a file for each OOD set.

    Raises:
      ValueError: in one line, if the file of a set is not there or damaged.
    """
    ours = folder / "test.npz"
    ours = ours if ours.exists() else folder / f"{cfg.benchmark}.npz"
    shifted = BENCHMARKS[cfg.benchmark].shifted if cfg.full_spectrum else {}
    return clean(
        cfg,
        read(ours),
        {name: read(folder / f"{file_name(name)}.npz") for name in cfg.ood_sets()},
        [read(folder / f"{file_name(name)}.npz") for name in shifted],
    )


def clean(
    cfg: OpenoodConfig, ours: Scored, theirs: Mapping[str, Scored], shifted: Sequence[Scored] = ()
) -> dict[str, Any]:
    """Compute OpenOOD's metrics of every set, near and far averages, and those with shifted images as ID."""
    found: dict[str, Any] = {"sets": {}, "images": len(ours.conf)}
    kinds = {"clean": ours}
    if shifted:
        kinds["full spectrum"] = Scored(
            *(np.concatenate(parts) for parts in zip(ours, *shifted, strict=True))
        )
    for kind, inside in kinds.items():
        accuracy = float((inside.pred == inside.label).mean())
        for name, outside in theirs.items():
            row: dict[str, Any] = {**compat.openood(inside.conf, outside.conf), "acc": accuracy}
            row["auroc interval"] = interval(inside.conf, outside.conf, cfg.resamples)
            found["sets"].setdefault(name, {"images": len(outside.conf)})[kind] = row
        found[kind] = averages(cfg, {name: found["sets"][name][kind] for name in theirs})
    return found


def under_attack(
    cfg: OpenoodConfig,
    clean_scores: Mapping[str, Scored],
    attacked_scores: Mapping[str, Mapping[str, Scored]],
) -> dict[str, Any]:
    """Compare scores of some images with themselves under every attack, by case: sets, and near and far averages.

    Args:
      cfg: what was attacked.
      clean_scores: by set, "test" for ID images.
      attacked_scores: the same by case.
    """
    found: dict[str, Any] = {}
    a = clean_scores["test"].conf
    for case, scores in attacked_scores.items():
        low, rows = scores["test"].conf, {}
        for name in cfg.ood_sets():
            b, high = clean_scores[name].conf, scores[name].conf
            rows[name] = {
                **protocols.under_attack(a, b, low, high),
                "fpr_clean_openood": compat.openood(a, b)["fpr"],
                "fpr_both_openood": compat.openood(low, high)["fpr"],
                "auroc_both interval": interval(low, high, cfg.resamples),
            }
        found[case] = {"sets": rows, **averages(cfg, rows)}
    return found


def averages(cfg: OpenoodConfig, rows: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Average over near and over far sets, as far as there are any."""
    benchmark, found = BENCHMARKS[cfg.benchmark], {}
    for kind, names in (("near", benchmark.near), ("far", benchmark.far)):
        there = {name: numbers(rows[name]) for name in names if name in rows}
        if there:
            found[kind] = protocols.over_sets(there)
    return found


def rows_of(cfg: OpenoodConfig, found: Mapping[str, Any], kind: str = "clean") -> list[dict[str, Any]]:
    """Tabulate in per cent, as OpenOOD prints it: near sets, their average, far sets, theirs."""
    benchmark, rows = BENCHMARKS[cfg.benchmark], []
    for part, names in (("near", benchmark.near), ("far", benchmark.far)):
        there = [name for name in names if name in found["sets"]]
        entries = [(name, found["sets"][name][kind]) for name in there]
        entries += [(f"{part}ood", found[kind][part])] if there else []
        rows += [
            {"dataset": name, **{says: f"{100 * it[m]:.2f}" for m, says in METRICS.items()}}
            for name, it in entries
        ]
    return rows


def write_csv(path: pathlib.Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a table in OpenOOD's form."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["dataset", *METRICS.values()])
        writer.writeheader()
        writer.writerows(rows)


def summary_row(
    detector: str, found: Mapping[str, Any], attacks: Mapping[str, Mapping[str, Any]]
) -> dict[str, str]:
    """Tabulate a detector in one line, in per cent: near and far, clean and with both sides attacked."""
    row = {"detector": detector}
    for kind, says in (("clean", ""), ("full spectrum", "full spectrum ")):
        for part in ("near", "far"):
            if part in found.get(kind, {}):
                it = found[kind][part]
                row[f"{says}{part}: AUROC, FPR@95"] = f"{100 * it['auroc']:.2f}, {100 * it['fpr']:.2f}"
    for case, it in attacks.items():
        for part in ("near", "far"):
            if part in it:
                three = (100 * it[part][f"auroc_{side}"] for side in ("clean", "in", "out", "both"))
                row[f"{case.replace('_', ' ')}, {part}: clean, ID, OOD, both"] = ", ".join(
                    f"{v:.1f}" for v in three
                )
    return row
