"""The smoothed network of `certify`, and what it predicts of images that arrive perturbed, which nothing certifies.

Wong and Kolter 2020, arXiv:2007.08450, predict corrupted images by 100 samples of noise in the latents around the image
that arrives, and abstain where the two classes of most votes could be equally likely.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from experiments.perturbation_sets.config import CertifyConfig
from robustjax import data
from robustjax.analysis.intervals import bootstrap
from robustjax.numerics import fold
from robustjax.perturbations.corruptions.table import corrupt
from robustjax.perturbations.learned import Perturb
from robustjax.perturbations.pairs import HELD_OUT, STRUCTURED
from robustjax.perturbations.sets import PerturbationSet
from robustjax.smoothing.certify import predict
from robustjax.smoothing.noise import Noise
from robustjax.smoothing.votes import Count, over_devices, votes
from robustjax.types import Images, LogitsFn

Arrays = dict[str, np.ndarray]
SEVERITY = 5.0
BATCH = 100  # images


class Smoothed(NamedTuple):
    """A classifier or segmenter to certify, and the images.

    Attributes:
      title: what the report calls it.
      logits_fn: the network underneath, or the average of several.
      noise, sigma: what smooths it, in pixels or latents.
      info: of the images.
      image, label: what is certified; labels per image or per pixel.
      space: in whose latents the noise is; None in pixels.
      raw: the images of the data set, before any padding.
      real: perturbs them as the set was learned from; None in pixels.
    """

    title: str
    logits_fn: LogitsFn
    noise: Noise
    sigma: float
    info: data.Info
    image: jax.Array
    label: np.ndarray
    space: PerturbationSet | None
    raw: jax.Array
    real: Perturb | None

    @property
    def pixelwise(self) -> bool:
        """Say whether every pixel has a class."""
        return self.label.ndim == 3

    def kinds(self, names: Sequence[str]) -> list[str]:
        """List the kinds of images that `--predict` names: clean, perturbed, or corruptions.

        Raises:
          ValueError: for kinds that these images do not have.
        """
        if names and self.pixelwise:
            raise ValueError("--predict is for classifiers, must be left out where every pixel has a class")
        if "perturbed" in names and self.real is None:
            raise ValueError(
                "--predict has perturbed, which runs of classification.train do not know, must be of clean, corrupted, "
                "held_out"
            )
        if {"corrupted", "held_out"} & set(names) and (
            self.raw.shape[-1] != 3 or self.raw.shape != self.image.shape
        ):
            raise ValueError(
                f"--predict has {', '.join(names)}, and images are {self.raw.shape[1:]}: corruptions are of colour "
                "images that the network sees as they are, must be of clean, perturbed"
            )
        groups = {"corrupted": STRUCTURED, "held_out": HELD_OUT}
        return [kind for name in names for kind in groups.get(name, (name,))]


def counter(smoothed: Smoothed, mesh: Mesh, *, chunk_size: int) -> Count:
    """Count the classes over samples of the noise, images shared among all devices."""
    count = votes(
        smoothed.logits_fn, smoothed.noise, classes=len(smoothed.info.classes), chunk_size=chunk_size
    )
    return over_devices(count, mesh)


def predicted(cfg: CertifyConfig, smoothed: Smoothed, mesh: Mesh, keys: jax.Array, kind: str) -> Arrays:
    """Predict images of one kind.

    Args:
      kind: clean, perturbed (as the set was learned from), or a corruption at severity 5.
    Returns:
      `smoothed` (n,), -1 where it abstains, and `plain` (n,), the network underneath.
    """
    count = counter(smoothed, mesh, chunk_size=min(cfg.chunk_size, cfg.predict_samples))
    decide = predict(count, samples=cfg.predict_samples, alpha=cfg.alpha)
    found: dict[str, list[np.ndarray]] = {"smoothed": [], "plain": []}
    for first in range(0, len(keys), BATCH):
        rows = slice(first, first + BATCH)
        image = images_of(smoothed, fold(keys[rows], 11), rows, kind)
        found["smoothed"].append(decide(fold(keys[rows], 12), image))
        found["plain"].append(np.asarray(smoothed.logits_fn(image).argmax(axis=-1)))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def images_of(smoothed: Smoothed, keys: jax.Array, rows: slice, kind: str) -> Images:
    """Make images of one kind of some rows."""
    if kind == "clean":
        return smoothed.image[rows]
    if kind == "perturbed":
        assert smoothed.real is not None
        return smoothed.real(keys, smoothed.raw[rows])
    return corrupt(kind)(keys, smoothed.raw[rows], SEVERITY)


def summary(found: Mapping[str, Arrays], label: np.ndarray) -> list[dict[str, str]]:
    """Tabulate what was predicted: one row for each kind of images, and one for all of several corruptions."""
    groups = {kind: [kind] for kind in found}
    for name, kinds in (
        ("mean of the corruptions it was learned from", STRUCTURED),
        ("mean of OOD corruptions", HELD_OUT),
    ):
        if set(kinds) <= set(found):
            groups[name] = list(kinds)
    rows = []
    for name, kinds in groups.items():
        right, abstains, plain = (
            np.stack([function(found[kind]) for kind in kinds]).mean(axis=0)
            for function in (
                lambda a: a["smoothed"] == label,
                lambda a: a["smoothed"] < 0,
                lambda a: a["plain"] == label,
            )
        )
        over = bootstrap(np.mean, right, resamples=1000)
        rows.append(
            {
                "images": name,
                "right %": f"{100 * over.value:.1f} ({100 * over.low:.1f} to {100 * over.high:.1f})",
                "abstains %": f"{100 * abstains.mean():.1f}",
                "right without noise %": f"{100 * plain.mean():.1f}",
            }
        )
    return rows
