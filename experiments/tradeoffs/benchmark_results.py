"""The numbers of tradeoffs.benchmark, made of what was measured of each image, with their intervals."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from experiments.tradeoffs.benchmark_config import BenchmarkConfig
from robustjax.analysis import backgrounds, sensitivity
from robustjax.analysis.groups import class_balanced, reweighted, worst_group
from robustjax.analysis.intervals import Estimate, bootstrap

Arrays = Mapping[str, np.ndarray]


class Number(NamedTuple):
    """A number of a network on a benchmark.

    Attributes:
      title: of a column.
      unit: of an axis.
      of: arrays -> the number with its interval; None where it was not measured.
      expected: the direction that adversarial training is expected to move it in, +1 or -1; 0 for none.
    """

    title: str
    unit: str
    of: Callable[[Arrays], Estimate | None]
    expected: int = 0


def numbers(cfg: BenchmarkConfig) -> dict[str, list[Number]]:
    """List the numbers of each benchmark, those of the figures first."""

    def estimated(statistic: Callable[..., float], *keys: str) -> Callable[[Arrays], Estimate | None]:
        def of(arrays: Arrays) -> Estimate | None:
            if any(key not in arrays for key in keys):
                return None
            return bootstrap(statistic, *(arrays[key] for key in keys), resamples=cfg.resamples)

        return of

    def accuracy(name: str, kind: str = "prediction") -> Callable[[Arrays], Estimate | None]:
        return estimated(_accuracy, f"{kind}/{name}", f"label/{name}")

    def gap(kind: str, statistic: Callable[..., float]) -> Callable[[Arrays], Estimate | None]:
        def of(arrays: Arrays) -> Estimate | None:
            keys = [f"{part}/mixed_{which}" for which in ("same", "rand") for part in (kind, "label")]
            if any(key not in arrays for key in keys):
                return None
            # Variants show the same foregrounds in the same order, so they are resampled together.
            if not np.array_equal(arrays[keys[1]], arrays[keys[3]]):
                return None
            return bootstrap(statistic, *(arrays[key] for key in keys), resamples=cfg.resamples)

        return of

    def mean_rfs(kind: str, label: str) -> Callable[[Arrays], Estimate | None]:
        return estimated(
            lambda f, b, y: float(sensitivity.rfs(f, b, y).mean()), f"foreground/{kind}", f"background/{kind}", label
        )  # fmt: skip

    def balanced(key: str, label: str) -> Callable[[Arrays], Estimate | None]:
        return estimated(lambda hits, y: float(np.mean(class_balanced(hits, y))), key, label)

    def average(arrays: Arrays) -> Estimate | None:
        sizes = np.bincount(arrays["group/train"], minlength=4)
        return bootstrap(
            lambda hits, group: _nan_if_empty(lambda: float(reweighted(hits, group, sizes))),
            _hits(arrays, "test"), arrays["group/test"], resamples=cfg.resamples,
        )  # fmt: skip

    def worst(arrays: Arrays) -> Estimate | None:
        return bootstrap(
            lambda hits, group: float(worst_group(hits, group)),
            _hits(arrays, "test"), arrays["group/test"], resamples=cfg.resamples,
        )  # fmt: skip

    def worst_planted(arrays: Arrays) -> Estimate | None:
        """Take the worst class on its own or on another background."""
        names = ("mixed_same", "mixed_other")
        hits = np.concatenate([_hits(arrays, name) for name in names])
        group = np.concatenate([2 * arrays[f"label/{name}"] + i for i, name in enumerate(names)])
        return bootstrap(lambda h, g: float(worst_group(h, g)), hits, group, resamples=cfg.resamples)

    def minority(arrays: Arrays) -> Estimate | None:
        def drop(hits: np.ndarray, group: np.ndarray) -> float:
            usual = np.isin(group, (0, 3))
            return (
                float(hits[usual].mean() - hits[~usual].mean()) if usual.any() and not usual.all() else np.nan
            )

        return bootstrap(drop, _hits(arrays, "test"), arrays["group/test"], resamples=cfg.resamples)

    def drop(kind: str) -> Callable[[Arrays], Estimate | None]:
        def of(arrays: Arrays) -> Estimate | None:
            if "label/imagenet" not in arrays:
                return None
            parts = [accuracy(name, kind)(arrays) for name in ("imagenet", "objectnet")]
            return _difference(*(part for part in parts if part is not None))

        return of

    variants = (
        "original",
        "mixed_same",
        "mixed_rand",
        "mixed_next",
        "only_fg",
        "no_fg",
        "only_bg_b",
        "only_bg_t",
    )
    on_textures = [
        Number("background gap", "accuracy lost", gap("prediction", _gap), 1),
        Number("RFS, noise of standard deviation", "RFS", mean_rfs("sigma", "label/original"), -1),
        Number("RFS, noise of l2 norm", "RFS", mean_rfs("l2", "label/original"), -1),
        Number("background alone", "accuracy", accuracy("only_bg_t"), 1),
        Number("worst group", "accuracy", worst_planted, -1),
        Number(
            "flips with the background", "share",
            estimated(backgrounds.flip_rate, "prediction/mixed_same", "prediction/mixed_other"),
        ),
        Number("original", "accuracy", accuracy("original")),
        Number("mixed_same", "accuracy", accuracy("mixed_same")),
        Number("mixed_rand", "accuracy", accuracy("mixed_rand")),
    ]  # fmt: skip
    return {
        "imagenet9": [
            Number("background gap", "accuracy lost", gap("prediction", _gap), 1),
            Number("gap / accuracy on mixed_same", "share", gap("prediction", _relative_gap), 1),
            Number("gap among the 370 classes", "accuracy lost", gap("restricted", _gap)),
            *(Number(name, "accuracy", accuracy(name)) for name in variants),
            Number("original among the 370 classes", "accuracy", accuracy("original", "restricted")),
        ],
        "rival10": [
            Number("RFS, noise of standard deviation", "RFS", mean_rfs("sigma", "label/test"), -1),
            Number("RFS, noise of l2 norm", "RFS", mean_rfs("l2", "label/test"), -1),
            Number("accuracy", "accuracy", accuracy("test")),
        ],
        "salient": [
            Number("RCS", "RCS", mean_rfs("core", "label/core"), -1),
            Number("core accuracy, noise off the core", "accuracy", balanced("background/core", "label/core")),
            Number("spurious accuracy, noise on the core", "accuracy", balanced("foreground/core", "label/core")),
            Number(
                "core accuracy, noise on spurious features", "accuracy",
                balanced("foreground/spurious", "label/spurious"),
            ),
            Number("accuracy on images of core features", "accuracy", accuracy("core")),
            Number("accuracy on images of spurious features", "accuracy", accuracy("spurious")),
        ],
        "waterbirds": [
            Number("worst group", "accuracy", worst, -1),
            Number("average, groups as in training", "accuracy", average),
            Number("drop from usual to unusual places", "accuracy lost", minority, 1),
        ],
        "objectnet": [
            Number("ObjectNet", "accuracy", accuracy("objectnet"), -1),
            Number("drop from ImageNet", "accuracy lost", drop("prediction")),
            Number("ImageNet, the same classes", "accuracy", accuracy("imagenet")),
            Number("ObjectNet among its classes", "accuracy", accuracy("objectnet", "restricted")),
            Number("drop among its classes", "accuracy lost", drop("restricted")),
        ],
        "pictures": on_textures,
        "planted": on_textures,
    }  # fmt: skip


def effective(found: Mapping[str, Arrays], standard: Mapping[str, bool]) -> dict[str, float]:
    """Compute the effective robustness on ObjectNet of each network, by a line through those trained on clean images.

    Returns:
      By network; nothing where fewer than two such networks of different accuracy are known.
    """
    clean, shifted = (
        {
            name: _accuracy(a[f"prediction/{part}"], a[f"label/{part}"])
            for name, a in found.items()
            if f"label/{part}" in a
        }
        for part in ("imagenet", "objectnet")
    )  # fmt: skip
    inside = {name for name in clean if 0 < clean[name] < 1 and 0 < shifted[name] < 1}
    base = [name for name in clean if standard.get(name) and name in inside]
    if len({clean[name] for name in base}) < 2:
        return {}
    return {
        name: float(
            backgrounds.effective_robustness(
                shifted[name],
                clean[name],
                baseline_shifted=[shifted[b] for b in base],
                baseline_clean=[clean[b] for b in base],
            )
        )
        for name in clean
        if name in inside
    }


def rfs_over_levels(arrays: Arrays, kind: str, label: str, resamples: int) -> list[Estimate]:
    """Estimate the relative foreground sensitivity of each level."""
    f, b, y = (arrays[key] for key in (f"foreground/{kind}", f"background/{kind}", label))
    return [
        bootstrap(lambda f, b, y: float(sensitivity.rfs(f, b, y)), f[:, i], b[:, i], y, resamples=resamples)
        for i in range(f.shape[1])
    ]


def _hits(arrays: Arrays, name: str) -> np.ndarray:
    return arrays[f"prediction/{name}"] == arrays[f"label/{name}"]


def _accuracy(prediction: np.ndarray, label: np.ndarray) -> float:
    return float((prediction == label).mean())


def _gap(same: np.ndarray, label: np.ndarray, random: np.ndarray, other: np.ndarray) -> float:
    return backgrounds.gap(same == label, random == other)


def _relative_gap(same: np.ndarray, label: np.ndarray, random: np.ndarray, other: np.ndarray) -> float:
    own = _accuracy(same, label)
    return _gap(same, label, random, other) / own if own else float("nan")


def _difference(one: Estimate, other: Estimate) -> Estimate:
    """Subtract estimates of different images: their errors add in squares."""
    value = one.value - other.value
    low = np.hypot(one.value - one.low, other.high - other.value)
    high = np.hypot(one.high - one.value, other.value - other.low)
    return Estimate(value, value - float(low), value + float(high))


def _nan_if_empty(statistic: Callable[[], float]) -> float:
    """A resample may lack a small group."""
    try:
        return statistic()
    except ValueError:
        return float("nan")
