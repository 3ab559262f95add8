"""The numbers of ratio.compare's page, from the arrays kept for every network."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import scipy.special

from robustjax.analysis import calibration
from robustjax.analysis.detection import worst_case
from robustjax.analysis.intervals import Estimate, bootstrap
from robustjax.bounds.confidence import guaranteed_auroc
from robustjax.ood.logit_scores import msp_margin
from robustjax.ood.metrics import auroc

TITLES = {
    "plain": "plain", "oe": "OE", "ceda": "CEDA", "acet": "ACET", "at": "AT", "trades": "TRADES", "ratio": "RATIO",
    "half_ratio": "RATIO, half clean", "trades_acet": "TRADES-ACET", "trades_ceda": "TRADES-CEDA",
}  # fmt: skip
Arrays = dict[str, np.ndarray]


class Results(NamedTuple):
    """What was measured of every method, stacked over seeds."""

    cfg: Any
    cells: dict[str, Arrays]
    classes: tuple[str, ...]

    @property
    def tested(self) -> list[str]:
        """Name the sets of outliers."""
        return list(self.cfg.test_outliers)

    @property
    def starts(self) -> list[str]:
        """Name the starts of counterfactuals."""
        found = next(iter(self.cells.values()))
        return [k.removeprefix("target/") for k in found if k.startswith("target/") and k != "target/all"]

    @property
    def outlier_starts(self) -> list[str]:
        """Name those that are outliers."""
        return [name for name in self.starts if name != "test"]

    @property
    def starting(self) -> int:
        """Count the counterfactuals of one start."""
        return next(iter(self.cells.values()))["target/test"].shape[1]

    def scores(self, method: str) -> tuple[np.ndarray, Arrays, Arrays]:
        """Give log odds of the largest probability: of test images, of outliers, and at worst around them."""
        cell = self.cells[method]
        clean = {name: margin(cell[f"logits/{name}"]) for name in self.tested}
        worst = {name: np.maximum(cell[f"worst/{name}"], clean[name]) for name in self.tested}
        return margin(cell["logits/test"]), clean, worst

    def by_seed(self, what: str) -> dict[str, np.ndarray]:
        """Give one number for every network: accuracy, robust, auc, wc_auc or mmc_in, as (seeds,) by method."""
        out = {}
        for method, cell in self.cells.items():
            inside, clean, worst = self.scores(method)
            if what == "accuracy":
                out[method] = right(cell).mean(axis=1)
            elif what == "robust":
                out[method] = cell["robust"].mean(axis=1)
            elif what == "mmc_in":
                out[method] = scipy.special.expit(inside).mean(axis=1)
            else:
                sets = worst if what == "wc_auc" else clean
                out[method] = np.array(
                    [np.mean([auroc(inside[s], sets[n][s]) for n in sets]) for s in range(len(inside))]
                )
        return out

    def probabilities(self, method: str, start: str) -> np.ndarray:
        """Give the target's probability in every counterfactual, (seeds, n, radii)."""
        cell = self.cells[method]
        p = scipy.special.softmax(cell[f"toward/{start}"].astype(np.float64), axis=-1)
        return np.take_along_axis(p, cell[f"target/{start}"][:, :, None, None], axis=-1)[..., 0]

    def reached(self, starts: list[str], method: str, radius: float) -> np.ndarray | None:
        """Give the mean probability over some starts at a radius, (seeds,); None if that was not searched."""
        if radius not in self.cfg.feature_radii or not starts:
            return None
        at = self.cfg.feature_radii.index(radius)
        return np.mean([self.probabilities(method, s)[..., at].mean(axis=1) for s in starts], axis=0)

    def temperatures(self, method: str) -> list[float]:
        """Find the temperature of every network on held-out images."""
        cell = self.cells[method]
        return [
            calibration.temperature(z, y)
            for z, y in zip(cell["logits/valid"], cell["label/valid"], strict=True)
        ]

    def errors(self, method: str, temperatures: list[float], bins: int) -> list[float]:
        """Compute the calibration error of every network on test images."""
        cell = self.cells[method]
        return [
            calibration.ece(calibration.confidence(z, temperature=t), hit, bins=bins)
            for z, hit, t in zip(cell["logits/test"], right(cell), temperatures, strict=True)
        ]

    def table(self) -> list[dict[str, Any]]:
        """Make the table: one row per method."""
        rows = []
        for method, cell in self.cells.items():
            inside, clean, worst = self.scores(method)
            # Probabilities tie where they round to 1, log odds do not: the order is theirs.
            order = worst_case(inside, clean, worst, resamples=self.cfg.resamples)
            sure, sure_clean, sure_worst = (
                np.mean([scipy.special.expit(a).mean() for a in sets.values()])
                for sets in ({"test": inside}, clean, worst)
            )
            heat = self.temperatures(method)
            row = {
                "method": TITLES[method],
                "accuracy": written(mean(right(cell), self.cfg.resamples)),
                "robust": written(mean(cell["robust"], self.cfg.resamples)),
                "AUC": written(order["auc"]),
                "WC-AUC": written(order["wc_auc"]),
                "WC-FPR95": written(order["wc_fpr95"]),
                "MMC data": f"{sure:.3f}",
                "MMC outliers": f"{sure_clean:.3f}",
                "WC-MMC": f"{sure_worst:.3f}",
                "ECE 15": spread(self.errors(method, [1.0] * len(heat), 15)),
                "ECE 20": spread(self.errors(method, [1.0] * len(heat), 20)),
                "T": spread(heat),
                "ECE 20 at T": spread(self.errors(method, heat, 20)),
            }
            near = self.reached(self.outlier_starts, method, self.cfg.outlier_eps)
            if near is not None:
                row[f"features at {self.cfg.outlier_eps:g}"] = spread(near)
            rows.append(row)
        return rows

    def per_set(self) -> list[dict[str, Any]]:
        """Make the table of sets: guaranteed, attacked and clean AUC, and confidences alike."""
        rows = []
        for method, cell in self.cells.items():
            inside, clean, worst = self.scores(method)
            for name in self.tested:
                pairs = list(zip(inside, clean[name], worst[name], strict=True))
                row: dict[str, Any] = {"method": TITLES[method], "outliers": name}
                row["AUC"] = f"{np.mean([auroc(a, b) for a, b, _ in pairs]):.3f}"
                row["attacked AUC"] = f"{np.mean([auroc(a, c) for a, _, c in pairs]):.3f}"
                bound = cell.get(f"certified/{name}")
                if bound is not None:
                    surely = np.log(scipy.special.expit(inside.astype(np.float64)))
                    row["guaranteed AUC"] = (
                        f"{np.mean([guaranteed_auroc(a, b) for a, b in zip(surely, bound, strict=True)]):.3f}"
                    )
                row["MMC"] = f"{scipy.special.expit(clean[name]).mean():.3f}"
                row["attacked MMC"] = f"{scipy.special.expit(worst[name]).mean():.3f}"
                if bound is not None:
                    row["certified MMC"] = f"{np.exp(bound).mean():.3f}"
                rows.append(row)
        return rows

    def counterfactuals(self) -> list[dict[str, Any]]:
        """Make the table of counterfactuals: one row per start, method and radius."""
        rows = []
        for start in self.starts:
            for method, cell in self.cells.items():
                p, logits = self.probabilities(method, start), cell[f"toward/{start}"]
                hit = logits.argmax(axis=-1) == cell[f"target/{start}"][:, :, None]
                image = cell[f"features/{start}"].astype(np.float32)
                moved = np.sqrt(np.square(image - image[:, :, :1]).sum(axis=(-3, -2, -1)))
                for i, eps in enumerate(self.cfg.feature_radii):
                    rows.append(
                        {
                            "start": start,
                            "method": TITLES[method],
                            "radius": f"{eps:g}",
                            "probability": spread(p[..., i].mean(axis=1)),
                            "valid": f"{(hit & (p > 0.9))[..., i].mean():.2f}",
                            "moved": f"{moved[..., i].mean():.2f}",
                            "judged": f"{cell[f'judged/{start}'][..., i].mean():.2f}",
                            "Frechet": spread(cell[f"frechet/{start}"][:, i], ".1f"),
                        }
                    )
        return rows


def margin(logits: np.ndarray) -> np.ndarray:
    """Compute the log odds of the largest probability, (..., k) -> (...)."""
    flat = msp_margin(jnp.asarray(logits.reshape(-1, logits.shape[-1])))
    return np.asarray(flat, np.float64).reshape(logits.shape[:-1])


def right(cell: Arrays) -> np.ndarray:
    """Say where the prediction on test images is right, (seeds, n)."""
    return cell["logits/test"].argmax(axis=-1) == cell["label/test"]


def mean(values: np.ndarray, resamples: int) -> Estimate:
    """Estimate a mean over networks and images."""
    return bootstrap(lambda v: float(v.mean()), values, nested=True, resamples=resamples)


def written(found: Estimate) -> str:
    """Write an estimate with its interval."""
    return f"{found.value:.3f} ({found.low:.3f}-{found.high:.3f})"


def spread(values: Any, form: str = ".3f") -> str:
    """Write the mean of a few networks with the least and the largest."""
    values = np.asarray(values, np.float64)
    if len(values) == 1:
        return f"{values[0]:{form}}"
    return f"{values.mean():{form}} ({values.min():{form}}-{values.max():{form}})"
