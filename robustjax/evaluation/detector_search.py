"""Search the settings of a detector on validation images, ID and OOD: the largest AUROC, or the least FPR."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import product
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from robustjax import data
from robustjax.data.overlap import require_disjoint
from robustjax.data.sources import Split
from robustjax.evaluation import scores
from robustjax.evaluation.mapped import mapped
from robustjax.numerics import in_float32
from robustjax.ood import metrics
from robustjax.ood.detectors import Detector, FitInputs, LastLayer, ScoreInputs
from robustjax.types import Network

Criterion = Literal["auroc", "fpr"]


class Tried(NamedTuple):
    """Settings that were tried, and the AUROC and `metrics.fpr_id95` of validation images that they gave."""

    settings: dict[str, Any]
    auroc: float
    fpr: float

    def merit(self, by: Criterion) -> float:
        """Say how good they are, more being better."""
        return self.auroc if by == "auroc" else -self.fpr


class Searched(NamedTuple):
    """What a search found.

    Attributes:
      detector: with the chosen settings.
      fitted: what it was fitted to, with these.
      best: the chosen settings, the first of equals.
      tried: all of them.
    """

    detector: Detector
    fitted: Any
    best: Tried
    tried: tuple[Tried, ...]


class Validation(NamedTuple):
    """What settings are chosen on.

    Attributes:
      train: training images, for detectors that are fitted.
      held_out: ID validation images: detectors are fitted to them as well, and they are told from `ood`.
      noise: what weighs layers against ID images; see `scores.fit`.
      ood: OOD validation images.
    """

    train: Split
    held_out: Split
    noise: Split
    ood: Split


def search(
    network: Network,
    make: Callable[..., Detector],
    grid: Mapping[str, Sequence[Any]],
    validation: Validation,
    tests: Mapping[str, Split],
    *,
    by: Criterion = "auroc",
    batch_size: int = 250,
) -> Searched:
    """Try every combination of a grid and keep the one whose scores tell the validation images apart best.

    The network runs once over the images: what reads activations or logits is scored from these.

    Args:
      network: what is scored.
      make: settings by name -> detector, such as `ood.post_processors.react`.
      grid: the values to try by name; the first name changes fastest, and of equals the first is kept, as in OpenOOD.
      validation: what they are chosen on.
      tests: all sets that are tested on, by name; none may share an image with the validation images.
      by: the largest "auroc", as OpenOOD chooses, or the smallest "fpr", as ODIN, ALOE and ATOM choose.
      batch_size: images in one pass.
    Raises:
      ValueError: in one line, if the grid is empty, a value is out of its range, the sets share an image, or a score is
        not finite for any setting.

    Reference: OpenOOD v1.5, Zhang et al. 2023, arXiv:2306.09301, "automatic parameter search".
    """
    if not grid or not all(len(values) for values in grid.values()):
        raise ValueError(f"search: the grid is {dict(grid)}, must hold at least one value of each setting")
    chosen_on = {"ID validation": validation.held_out, "OOD validation": validation.ood}
    require_disjoint("search", chosen_on, tests)
    names = list(grid)
    combinations = [
        dict(zip(names, reversed(values), strict=True))
        for values in product(*(grid[name] for name in reversed(names)))
    ]
    made = [make(**settings) for settings in combinations]
    given = scores.fit_inputs(network, made[0], *validation[:3], batch_size=batch_size)
    scored, tried, best = _Scored(network, validation, given, batch_size), [], None
    for settings, one in zip(combinations, made, strict=True):
        fitted = one.fit(given) if one.fit else ()
        ours, theirs = scored(one, fitted)
        tried.append(Tried(settings, metrics.auroc(ours, theirs), metrics.fpr_id95(ours, theirs)))
        if np.isfinite(tried[-1].auroc) and (best is None or tried[-1].merit(by) > best.best.merit(by)):
            best = Searched(one, fitted, tried[-1], ())
    if best is None:
        raise ValueError(f"search: no setting of {names} gives finite scores")
    return best._replace(tried=tuple(tried))


class _Scored:
    """Scores of both validation sets."""

    def __init__(self, network: Network, validation: Validation, given: FitInputs, batch_size: int) -> None:
        self.network, self.given, self.batch_size = network, given, batch_size
        self.splits = validation.held_out, validation.ood
        self.classes = len(validation.train.info.classes)
        self._programs: dict[Hashable, Any] = {}
        self._read: list[dict[str, Any]] = []

    def __call__(self, detector: Detector, fitted: Any) -> list[np.ndarray]:
        if detector.reads in ("images", "maps"):
            return self._of_images(detector, fitted)
        head = self.given.last_layer

        def score(fitted: Any, head: LastLayer | None, read: Any):
            # In the place of images: what the network makes of them.
            outputs: Any = lambda name: lambda read: read[name]  # noqa: E731
            inputs = ScoreInputs(outputs("logits"), self.classes, outputs("features"), head, fitted=fitted)
            return detector.build(inputs)(read)

        run = jax.jit(in_float32(score))
        return [np.asarray(run(fitted, head, read)) for read in self._activations()]

    def _activations(self) -> list[dict[str, Any]]:
        """Run the network once over each set."""
        if not self._read:
            model = self.network.model
            inner = self.given.features

            def read(keys, batch, params, state):
                del keys
                system = scores.DetectorOn(model, Detector(lambda _: jnp.zeros), self.classes)
                inputs = system.inputs(params, state, ())
                found = {"logits": inputs.logits_fn(batch.image).astype(jnp.float32), "features": {}}
                if inner:
                    assert inputs.features is not None
                    found["features"] = inputs.features(batch.image)
                return found

            self._read = [
                self._over(mapped(read), s, self.network.params, self.network.state) for s in self.splits
            ]
        return self._read

    def _of_images(self, detector: Detector, fitted: Any) -> list[np.ndarray]:
        system = scores.DetectorOn(self.network.model, detector, self.classes)
        if detector.build not in self._programs:

            def measure(keys, batch, *given):
                del keys
                return system(*given).score(batch.image)

            self._programs[detector.build] = mapped(measure)
        run, weights = self._programs[detector.build], (self.network.params, self.network.state)
        return [self._over(run, split, *weights, fitted) for split in self.splits]

    def _over(self, run: Callable[..., Any], split: Split, *arguments: Any) -> Any:
        count = min(self.batch_size, len(split.label))
        return run(jax.random.key(0), data.evaluation(split, batch_size=count), *arguments)


def in_words(name: str, found: Searched) -> str:
    """Say what was chosen."""
    settings = ", ".join(f"{key} {value}" for key, value in found.best.settings.items())
    return (
        f"{name}: {settings}; validation AUROC {found.best.auroc:.4f}, of {len(found.tried)} settings from "
        f"{min(t.auroc for t in found.tried):.4f}; FPR {found.best.fpr:.4f}"
    )
