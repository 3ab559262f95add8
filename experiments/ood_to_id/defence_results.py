"""The numbers and tables of ood_to_id.defence, and what of them was expected."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.ood_to_id.config import DefenceConfig
from robustjax.analysis.intervals import proportion
from robustjax.evaluation.defence_results import from_arrays
from robustjax.evaluation.headline import Headline, by_attack, percent
from robustjax.ood import controls

PAPER = "n/a"  # the tables of arXiv:2202.08944 were not available
DETECTOR = "SSD"
FAMILIES = (
    "PGD 1 eps", "PGD 1 eps, 8 bits", "sign noise 1 eps", "uniform noise 1 eps", "normal noise as far as PGD",
    "PGD on an adversarially trained f",
)  # fmt: skip
GRADIENT_ATTACKS = ("A1", "A2", "A3", "A4")


class Results:
    """The parts of all seeds, and how to look at them."""

    def __init__(
        self,
        parts: Mapping[str, Mapping[str, np.ndarray]],
        cfg: DefenceConfig,
        headlines: Sequence[Headline],
    ) -> None:
        self.parts, self.cfg, self.headlines = parts, cfg, headlines
        self.seeds = range(cfg.seeds)
        self.found = {
            name: [from_arrays(parts[f"{name}_{seed}"]) for seed in self.seeds]
            for name in ("adaptive", "swapped", "baseline")
        }
        self.detectors = [
            key.removeprefix("clean/score/") for key in parts["detection_0"] if key.startswith("clean/score/")
        ]

    def seconds(self) -> float:
        """Add up the CPU time of all parts."""
        return float(sum(part["cpu_seconds"] for part in self.parts.values()))

    def of(self, part: str, key: str) -> np.ndarray:
        """Stack an array of a part over the seeds: (s, ...)."""
        return np.stack([self.parts[f"{part}_{seed}"][key] for seed in self.seeds])

    def right(self, family: str, who: int) -> np.ndarray:
        """Say where an answer is right, (s, n): 0 for f, 1 for the defence, 2 for f after T, 3 for the robust f."""
        return ~self.of("detection", f"{family}/wrong")[:, who]

    def robust(self, part: str, *names: str) -> np.ndarray:
        """Say which images are right under the attacks of these names or threat models, (s, n)."""
        return np.stack([one.robust(*names) for one in self.found[part]])

    def robust_to_gradients(self, part: str) -> np.ndarray:
        """Say which images are right under A1 to A4, (s, n)."""
        return np.stack(
            [one.robust(*(a for a in one.attacks if a[:2] in GRADIENT_ATTACKS)) for one in self.found[part]]
        )

    def idar(self) -> np.ndarray:
        """Say for which images some point in the ball fools f and passes the gate, (s, n)."""
        return np.stack([one.in_distribution() for one in self.found["adaptive"]])

    def detection(self, family: str, detector: str) -> list[dict[str, float]]:
        """Measure a detector on a family, one row per seed."""
        scores = (
            self.of("detection", f"{name}/score/{detector}") for name in ("clean", family, "calibration")
        )
        return [controls.detection(*one) for one in zip(*scores, strict=True)]

    def auroc(self, family: str, detector: str = DETECTOR) -> np.ndarray:
        """Compute the AUROC of a family, (s,)."""
        return np.array([row["auroc"] for row in self.detection(family, detector)])

    # --- tables -----------------------------------------------------------------------------------------

    def main_rows(self) -> list[dict[str, Any]]:
        """Tabulate accuracies by what the adversary knows, pooled over the seeds."""
        it: dict[str, np.ndarray] = {
            "clean accuracy, f": self.right("clean", 0),
            "clean accuracy, defence": self.right("clean", 1),
            "clean images routed (false alarms)": self.of("detection", "clean/routed"),
            "f alone, PGD-40": self.right("PGD 1 eps", 0),
            "TM0 static: attacks on f, replayed": self.robust("adaptive", "TM0"),
            "TM1 queries: Square, SPSA": self.robust("adaptive", "TM1"),
            "TM2 white-box f and T, gate unknown": self.robust("adaptive", "TM2"),
            "TM4 transfer from another training": self.robust("adaptive", "TM4"),
            "TM3 ADAPTIVE, worst case of everything": self.robust("adaptive"),
            "IDAR: fooled with the gate passing": self.idar(),
            "baseline: PGD-trained f, clean": np.stack([~one.clean_wrong for one in self.found["baseline"]]),
            "baseline: PGD-trained f, worst case": self.robust("baseline"),
        }
        return [
            {"quantity": name, "found %": percent(proportion(hits.ravel()))}
            | {f"seed {seed}": f"{100 * hits[seed].mean():.1f}" for seed in self.seeds}
            | {"paper": PAPER}
            for name, hits in it.items()
        ]

    def detection_rows(self) -> list[dict[str, Any]]:
        """Tabulate how detectors score attacks and noise, means over the seeds."""
        rows = []
        for detector in self.detectors:
            for family in FAMILIES:
                found = self.detection(family, detector)
                mean = {name: float(np.mean([row[name] for row in found])) for name in found[0]}
                rows.append(
                    {
                        "detector": detector, "images": family, "AUROC": f"{mean['auroc']:.3f}",
                        "AUPR, OOD": f"{mean['aupr_out']:.3f}", "FPR95": f"{mean['fpr95']:.3f}",
                        "detected at 0 / 1 / 5 % false alarms": " / ".join(
                            f"{mean[f'detected at {r}']:.2f}" for r in ("0", "0.01", "0.05")
                        ),
                        "accuracy of f": f"{self.right(family, 0).mean():.3f}",
                        "paper": PAPER,
                    }
                )  # fmt: skip
        return rows

    def cause_rows(self) -> list[dict[str, Any]]:
        """Tabulate how often f errs on images that the gate calls OOD, and on the rest."""
        rows = []
        for family in ("clean", *FAMILIES[:5]):
            wrong, flagged = (
                (~self.right(family, 0)).ravel(),
                self.of("detection", f"{family}/routed").ravel(),
            )
            table = controls.two_by_two(wrong, flagged)
            rows.append({"images": family} | {k: f"{v:.3f}" for k, v in list(table.items())[:2]}
                        | {"OOD": int(table["OOD"]), "ID": int(table["ID"])})  # fmt: skip
        return rows

    def route_rows(self) -> list[dict[str, Any]]:
        """Split accuracies by route."""
        rows = []
        for family in ("clean", "PGD 0.5 eps", "PGD 1 eps", "sign noise 1 eps"):
            f, t = self.right(family, 0).ravel(), self.right(family, 2).ravel()
            routed = self.of("detection", f"{family}/routed").ravel()

            def mean(hits: np.ndarray) -> str:
                return f"{100 * hits.mean():.1f}" if hits.size else "-"

            rows.append(
                {
                    "images": family, "routed %": mean(routed), "defence %": mean(np.where(routed, t, f)),
                    "f, where not routed %": mean(f[~routed]), "f after T, where routed %": mean(t[routed]),
                    "f everywhere %": mean(f), "f after T everywhere %": mean(t),
                }
            )  # fmt: skip
        return rows

    def natural_rows(self) -> list[dict[str, Any]]:
        """Tabulate natural shifts, means over the seeds."""
        names = self.parts["natural_0"]
        rows = []
        for i, (shift, trained) in enumerate(zip(names["shift"], names["T trained on"], strict=True)):
            kinds = ("accuracy_plain", "routed", "accuracy", "accuracy_translated")
            mean = {k: 100 * self.of("natural", k)[:, i].mean() for k in kinds}
            rows.append(
                {
                    "shift": str(shift), "T trained on": str(trained), "f %": f"{mean['accuracy_plain']:.1f}",
                    "routed %": f"{mean['routed']:.1f}", "defence %": f"{mean['accuracy']:.1f}",
                    "f after T everywhere %": f"{mean['accuracy_translated']:.1f}", "paper": PAPER,
                }
            )  # fmt: skip
        return rows

    def sweep_rows(self) -> list[dict[str, Any]]:
        """Tabulate the accuracy over the radius: under A1, A3 and A4 in short, at the radius of the system in full."""
        rows = []
        for eps in sorted({*self.cfg.radii, self.cfg.recipe.eps}):
            if eps == self.cfg.recipe.eps:
                left, seen = self.robust_to_gradients("adaptive"), self.idar()
            else:
                left, seen = ~self.of("sweep", f"{eps:g}"), self.of("sweep", f"{eps:g}/unseen")
            accuracy = percent(proportion(left.ravel()))
            rows.append({"radius": f"{eps:g}", "accuracy %": accuracy, "IDAR %": f"{100 * seen.mean():.1f}"})
        return rows

    def attack_rows(self, part: str = "adaptive", seed: int = 0) -> list[dict[str, Any]]:
        """Tabulate what every attack left."""
        return by_attack(self.found[part][seed])

    # --- what was expected --------------------------------------------------------------------------------

    def claims(self) -> list[dict[str, Any]]:
        """Say of each check what was found, for the worst seed, and whether it holds."""
        eps = self.cfg.recipe.eps

        def least(hits: np.ndarray) -> float:
            return float(hits.mean(axis=1).min())

        def most(hits: np.ndarray) -> float:
            return float(hits.mean(axis=1).max())

        alarms = self.of("detection", "clean/routed").mean(axis=1)
        drop = np.abs(self.right("clean", 1).mean(axis=1) - self.right("clean", 0).mean(axis=1))
        order = np.stack([self.auroc(f"PGD {s} eps") for s in ("0.25", "0.5", "1")])
        halved = self.of("detection", "PGD 1 eps/after").mean(axis=1) / self.of(
            "detection", "PGD 1 eps/before"
        ).mean(axis=1)
        dark = {
            trained: rows
            for trained in ("attacks", "attacks and shifts")
            if (rows := self._dark(trained)) is not None
        }
        paths = {k: self.of("adaptive", f"paths/{k}") for k in (
            "unrouted_bits", "labels", "difference", "alone_labels", "alone_difference")}  # fmt: skip
        inside = all(one.feasible.all() for part in self.found.values() for one in part)
        away = float(max(paths["difference"].max(), paths["alone_difference"].max()))
        same = bool(paths["labels"].all() and paths["alone_labels"].all())
        noise = least(self.right("sign noise 1 eps", 0))
        clean, gate = (
            least(self.right("clean", 0)),
            "14 where and gather, one and many: largest difference of logits",
        )
        without, with_shifts = dark["attacks"][0], dark["attacks and shifts"][1]
        swapped = most(self.robust_to_gradients("swapped"))
        table = [
            ("1 clean accuracy of f", "at least 0.92", clean, clean >= 0.92),
            (f"2 accuracy of f under PGD-40 at {eps:g}", "at most 0.02", most(self.right("PGD 1 eps", 0)),
             most(self.right("PGD 1 eps", 0)) <= 0.02),
            ("2 every point in the ball and the box", "yes", float(inside), inside),
            ("3 false alarms of SSD on test images", "0.02 to 0.12", float(alarms.max()),
             bool((alarms >= 0.02).all() and (alarms <= 0.12).all())),
            ("4 AUROC of PGD", "at least 0.97", float(order[2].min()), bool((order[2] >= 0.97).all())),
            ("4 AUROC rises with the radius: least step", "above 0", float(np.diff(order, axis=0).min()),
             bool((np.diff(order, axis=0) > 0).all())),
            ("5 control: AUROC of sign noise", "reported", float(self.auroc("sign noise 1 eps").min()), True),
            ("5 control: accuracy of f on that noise", "at least 0.88", noise, noise >= 0.88),
            ("6 unrouted logits are those of f, to the bit", "yes", float(paths["unrouted_bits"].all()),
             bool(paths["unrouted_bits"].all())),
            ("7 |clean accuracy of the defence - f| less false alarms", "at most 0", float((drop - alarms).max()),
             bool((drop <= alarms + 1e-9).all())),
            ("8 pixel error of PGD after T, as a share of before", "at most 0.5", float(halved.max()),
             bool((halved <= 0.5).all())),
            ("9 static: defence under PGD on f", "at least 0.80", least(self.right("PGD 1 eps", 1)),
             least(self.right("PGD 1 eps", 1)) >= 0.8),
            ("10 adaptive worst case of A1 to A4", "at most 0.10", most(self.robust_to_gradients("adaptive")),
             most(self.robust_to_gradients("adaptive")) <= 0.1),
            ("11 IDAR", "at least 0.85", least(self.idar()), least(self.idar()) >= 0.85),
            ("12 darker 0.3: defence trained on attacks alone, less f", "below 0", without, without < 0),
            ("12 darker 0.3: defence trained on shifts too", "at least 0.90", with_shifts, with_shifts >= 0.9),
            ("13 another gate (Mahalanobis of f): adaptive worst case", "at most 0.10", swapped, swapped <= 0.1),
            (gate, "at most 1e-5 of them, same labels", away, same and away <= 1e-5 * self.scale()),
        ]  # fmt: skip
        return [
            {"check": c, "expected": e, "found": f"{f:.3g}", "holds": "yes" if ok else "NO"}
            for c, e, f, ok in table
        ]

    def scale(self) -> float:
        """Say how large logits are."""
        return max(1.0, *(float(np.abs(one.plain).max()) for one in self.found["adaptive"]))

    def _dark(self, trained: str) -> tuple[float, float]:
        names = self.parts["natural_0"]
        at = next(
            i for i, (s, t) in enumerate(zip(names["shift"], names["T trained on"], strict=True))
            if str(s) == "darker 0.3" and str(t) == trained
        )  # fmt: skip
        defence, f = (self.of("natural", k)[:, at] for k in ("accuracy", "accuracy_plain"))
        return float((defence - f).max()), float(defence.min())

    def facts(self) -> dict[str, Any]:
        """Collect everything that is tabulated, as plain data."""
        return {
            "headline": [one.says for one in self.headlines], "checks": self.claims(), "main": self.main_rows(),
            "detection": self.detection_rows(), "cause": self.cause_rows(), "routes": self.route_rows(),
            "natural": self.natural_rows(), "radii": self.sweep_rows(),
            "attacks": {f"{part}_{s}": self.attack_rows(part, s) for part in self.found for s in self.seeds},
            "flags": self.flag_rows(), "cpu_seconds": self.seconds(),
        }  # fmt: skip

    def flag_rows(self) -> list[dict[str, Any]]:
        """Tabulate signs of masked gradients, of the first seed."""
        part = self.parts["adaptive_0"]
        names = ("check", "raised", "what was seen", "numbers")
        columns = [[str(value) for value in part[f"flag/{name}"]] for name in names]
        return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]

    def lines(self) -> list[str]:
        """Say on a terminal what was found and whether each check holds."""
        table = [f"{row['quantity']}: {row['found %']}" for row in self.main_rows()]
        checks = [f"{c['holds']:>3}  {c['check']}: {c['found']} ({c['expected']})" for c in self.claims()]
        return [*table, *checks, *(f"seed {s}: {headline.says}" for s, headline in enumerate(self.headlines))]
