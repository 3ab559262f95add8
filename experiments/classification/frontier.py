"""Compare trainings by what they cost and how robust they are: CPU minutes against accuracy under attack.

    python -m experiments.classification.train cifar10_small --loss n_fgsm --out runs/small/n_fgsm_0
    python -m experiments.classification.attack standard --source.run runs/small/n_fgsm_0 --eps 8/255
    python -m experiments.classification.frontier --runs runs/small/n_fgsm_0 runs/small/trades_0 --out runs/frontier

The runs are folders of classification.train that classification.attack has attacked, all with the same attacks at the
same radius on the same images. Runs that differ only in their seed and length form a line of the figure; what else
differs names the lines. A run is on the frontier if none was trained as short or shorter and is more robust. Nothing is
trained or attacked here; the folder gets report.html, and results.json, which also lists the images that stayed robust.
"""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tyro

from experiments.classification.config import FrontierConfig
from experiments.shared import command_line
from experiments.shared.cpu_time import cpu_minutes
from robustjax import runtime
from robustjax.analysis.intervals import Estimate, bootstrap, proportion
from robustjax.catalog import losses
from robustjax.checks import reading
from robustjax.evaluation.results import Results
from robustjax.runtime import result_files, strict_json, subplots
from robustjax.runtime.provenance import made_with
from robustjax.runtime.report import Report

IN_ONE_LINE = ("seed", "updates", "out", "data_dir", "keep", "tensorboard", "distributed", "cluster")


class Trained(NamedTuple):
    """A run and what its attack found."""

    folder: str
    settings: Mapping[str, Any]  # flat, by dotted name
    minutes: float
    results: Results
    about: Mapping[str, Any]

    @property
    def clean(self) -> np.ndarray:
        """Say which images are classified correctly: (n,) bool."""
        return self.results.clean == self.results.label


def main(cfg: FrontierConfig) -> None:
    """Read, compare, tabulate, draw."""
    if not cfg.runs or len(set(cfg.runs)) < len(cfg.runs):
        raise ValueError(
            f"--runs is {' '.join(cfg.runs) or 'missing'}, must name one or more folders, none twice"
        )
    runs = [opened(folder, cfg.report) for folder in cfg.runs]
    require_comparable(runs)
    names = lines_of(runs)
    on_frontier = frontier([run.minutes for run in runs], [float(run.results.robust.mean()) for run in runs])
    rows = [
        {
            "training": name,
            "seed": run.settings["seed"],
            "images": run.settings["updates"] * run.settings["batch_size"],
            "CPU-minutes": round(run.minutes, 1),
            "clean %": in_words(proportion(run.clean)),
            "robust %": in_words(proportion(run.results.robust)),
            "on the frontier": "yes" if front else "",
        }
        for run, name, front in zip(runs, names, on_frontier, strict=True)
    ]
    groups = over_seeds(runs, names)
    for row in groups or rows:
        runtime.say("  ".join(f"{name} {value}" for name, value in row.items() if value != ""))
    about = runs[0].about
    attacked = (
        f"{about['norm']} {about['eps']:.4g}, {', '.join(runs[0].results.attacks)}, "
        f"{len(runs[0].results.label)} test images of {runs[0].settings['dataset']}"
    )
    facts = {
        "attacked": attacked,
        "runs": rows,
        "over seeds": groups,
        "images": sorted(int(i) for i in runs[0].results.index),
        "robust images": [robust_images(run.results) for run in runs],
        "made_with": made_with(),
    }
    strict_json.write(ensured(cfg.out) / "results.json", facts)
    runtime.say(f"report: {report(cfg, runs, names, rows, groups, attacked)}")


def robust_images(results: Results) -> list[int]:
    """List the numbers, in their data set, of the images that no attack broke."""
    return sorted(int(i) for i in results.index[results.robust])


def opened(folder: str, report: str) -> Trained:
    """Read a run, its CPU time and the report of its attack.

    Raises:
      ValueError: if one of them is missing, or there are several reports and none is named.
    """
    path = pathlib.Path(folder)
    config = path / "config.json"
    if not config.exists():
        raise ValueError(f"--runs has {folder}, must be a folder of classification.train: no config.json")
    with reading(config, "must be the config of a run"):
        settings = flat(json.loads(config.read_text(encoding="utf-8"))["config"])
    minutes = cpu_minutes(path)
    if minutes is None:
        raise ValueError(f"--runs has {folder}, must hold cpu_time.jsonl: train it anew to know its time")
    found = sorted(p.parent for p in (path / "attack").glob("*/results.npz"))
    if report:
        found = [p for p in found if p.name == report]
    if len(found) != 1:
        there = ", ".join(p.name for p in found) or "none"
        raise ValueError(
            f"{folder}/attack holds {there}{f' called {report}' if report else ''}, must hold one report of "
            "classification.attack, or --report must name it"
        )
    return Trained(folder, settings, minutes, *result_files.read(found[0]))


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Write nested settings with dotted names."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return found


def require_comparable(runs: Sequence[Trained]) -> None:
    """Refuse reports at other radii, by other attacks or on other images than the first one's.

    Raises:
      ValueError: if they differ.
    """
    first = runs[0]
    for run in runs[1:]:
        pairs = {
            "norm": (first.about.get("norm"), run.about.get("norm")),
            "radius": (first.about.get("eps"), run.about.get("eps")),
            "attacks": (first.results.attacks, run.results.attacks),
            "data set": (first.settings["dataset"], run.settings["dataset"]),
        }
        for what, (one, other) in pairs.items():
            if one != other:
                raise ValueError(
                    f"{run.folder} was attacked with {what} {other}, must be {one} as {first.folder}"
                )
        same = [
            np.array_equal(getattr(first.results, a), getattr(run.results, a)) for a in ("index", "label")
        ]
        if not all(same):
            raise ValueError(
                f"{run.folder} was attacked on other images than {first.folder}, must be the same"
            )


def lines_of(runs: Sequence[Trained]) -> list[str]:
    """Name each run by the settings in which runs differ, but for seed and length and what is off."""
    used = [{name: value for name, value in run.settings.items() if counts(name, run)} for run in runs]
    names = list(dict.fromkeys(name for each in used for name in each))
    differ = [name for name in names if len({str(each[name]) for each in used if name in each}) > 1]
    return [
        ", ".join(str(each[n]) if n in ("loss", "model") else f"{n} {each[n]}" for n in differ if each.get(n))
        or str(each["loss"])
        for each in used
    ]


def counts(name: str, run: Trained) -> bool:
    """Say whether a setting makes a training another one: steps do not where a loss has an attack of its own."""
    if name.split(".")[0] in IN_ONE_LINE:
        return False
    loss = run.settings["loss"]
    own = loss in losses.LOSSES and not (losses.takes(loss, "ascent") or losses.takes(loss, "attack"))
    return not (own and name in ("attack.steps", "attack.step", "attack.restarts"))


def frontier(minutes: Sequence[float], robust: Sequence[float]) -> list[bool]:
    """Say which runs no other one beats: as short or shorter and more robust, or as robust and shorter."""
    points = list(zip(minutes, robust, strict=True))
    return [
        not any((m <= minute and r > share) or (m < minute and r >= share) for m, r in points)
        for minute, share in points
    ]


def over_seeds(runs: Sequence[Trained], names: Sequence[str]) -> list[dict[str, Any]]:
    """Average runs that differ in the seed alone, with intervals over seeds and images; none if there are none."""
    groups: dict[tuple[str, int], list[Trained]] = {}
    for run, name in zip(runs, names, strict=True):
        groups.setdefault((name, run.settings["updates"]), []).append(run)
    if all(len(group) == 1 for group in groups.values()):
        return []
    return [
        {
            "training": name,
            "seeds": len(group),
            "CPU-minutes": round(float(np.mean([run.minutes for run in group])), 1),
            "clean %": in_words(_nested([run.clean for run in group])),
            "robust %": in_words(_nested([run.results.robust for run in group])),
        }
        for (name, _), group in groups.items()
    ]


def _nested(hits: Sequence[np.ndarray]) -> Estimate:
    if len(hits) == 1:
        return proportion(hits[0])
    return bootstrap(np.mean, np.stack(hits).astype(float), nested=True)


def in_words(share: Estimate) -> str:
    """Write a share in percent with its interval."""
    return f"{100 * share.value:.1f} ({100 * share.low:.1f} to {100 * share.high:.1f})"


def report(
    cfg: FrontierConfig,
    runs: Sequence[Trained],
    names: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    groups: Sequence[Mapping[str, Any]],
    attacked: str,
) -> pathlib.Path:
    """Write the page."""
    page = Report("Cost and robustness of trainings", cfg)
    page.text(f"Attacked: {attacked}. CPU time is that of training with compiling, without validation.")
    page.picture(picture(runs, names), caption="Accuracy over CPU minutes of training.", name="frontier")
    if groups:
        page.table(groups, caption="Over seeds; 95 % intervals over seeds and images.")
    page.table(
        rows,
        caption="Every run; 95 % intervals over images. On the frontier: none is as short and more robust.",
    )
    page.scope(
        attacked=[run.folder for run in runs],
        attacks=[attacked],
        not_attacked=["other radii and norms", "what the reports of the runs name"],
    )
    return page.write(ensured(cfg.out) / "report.html")


def picture(runs: Sequence[Trained], names: Sequence[str]) -> bytes:
    """Draw robust and clean accuracy over the minutes, a line for each training."""

    def line(name: str, hits: Sequence[np.ndarray]) -> subplots.Line:
        own = sorted((run.minutes, i) for i, run in enumerate(runs) if names[i] == name)
        shares = [proportion(hits[i]) for _, i in own]
        return subplots.Line([m for m, _ in own], *np.array(shares).T)

    both = {
        "robust": [run.results.robust for run in runs],
        "clean": [run.clean for run in runs],
    }
    return subplots.subplot_grid(
        [
            subplots.Subplot(
                what, {n: line(n, hits) for n in dict.fromkeys(names)}, "CPU-minutes", "accuracy"
            )
            for what, hits in both.items()
        ],
        across=2,
        height=2.8,
    )


def ensured(folder: str) -> pathlib.Path:
    """Make a folder if it is absent."""
    path = pathlib.Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    return path


if __name__ == "__main__":
    command_line.guarded(lambda: main(tyro.cli(FrontierConfig, description=__doc__)))
