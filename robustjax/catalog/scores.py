"""Detectors of OOD images by name, each scored in a form that does not saturate, so that it can be attacked."""

from collections.abc import Callable, Mapping
from itertools import combinations
from typing import Any, NamedTuple

from robustjax.catalog.names import named
from robustjax.ood import detectors, gaussian_scores, logit_scores
from robustjax.ood import post_processors as made
from robustjax.ood.detectors import Detector, last
from robustjax.ood.ross import ross
from robustjax.ood.scores import scored
from robustjax.ood.ssd import ssd

DETECTORS: dict[str, Detector] = {
    "msp": detectors.of_logits(logit_scores.msp_margin),
    "max_logit": detectors.of_logits(logit_scores.max_logit),
    "energy": made.energy(),
    "entropy": detectors.of_logits(logit_scores.entropy_log),
    "gen": made.gen(),
    "temperature_scaling": made.temperature_scaling(),
    "kl_matching": made.matching(),
    "openmax": made.open_max(),
    "own": Detector(lambda inputs: scored(inputs.logits_fn, inputs.form)),
    "odin": made.odin(),
    "mahalanobis": detectors.of_features(
        lambda given: gaussian_scores.mahalanobis(last(given.features), given.label)
    ),
    "relative_mahalanobis": detectors.of_features(
        lambda given: gaussian_scores.relative_mahalanobis(last(given.features), given.label)
    ),
    "mahalanobis_layers": detectors.mahalanobis_layers(),
    "ssd": detectors.of_features(lambda given: ssd(last(given.features), covariance="ledoit-wolf")),
    "knn": made.knn(),
    "nnguide": made.nnguide(),
    "relation": made.relation(),
    "prototypes": made.prototypes(),
    "she": made.she(),
    "vim": made.vim(),
    "residual": made.residual(),
    "fdbd": made.fdbd(),
    "nci": made.nci(),
    "gradnorm": made.gradnorm(),
    "dice": made.dice(),
    "react": made.react(),
    "vra": made.vra(),
    "ash": made.ash_s(),
    "ash_b": made.ash_b(),
    "ash_p": made.ash_p(),
    "scale": made.scale(),
    "adascale_a": made.adascale_a(),
    "adascale_l": made.adascale_l(),
    "t2fnorm": made.t2fnorm(),
    "dropout": made.dropout(),
    "rankfeat": made.rank_feat(),
    "gram": made.gram_matrices(),
    "ross": ross(made.fdbd()),
}
# OpenOOD's names of the same scores; its "ash" is ash_b here, and "ensemble" a network: the members' mean prediction.
OPENOOD_NAMES = {
    "mls": "max_logit",
    "ebo": "energy",
    "temp_scaling": "temperature_scaling",
    "klm": "kl_matching",
    "mds": "mahalanobis",
    "rmds": "relative_mahalanobis",
    "mds_ensemble": "mahalanobis_layers",
    "cider": "knn",
    "npos": "knn",
}


class Tunable(NamedTuple):
    """A detector whose settings are chosen on validation images.

    Attributes:
      make: settings by name -> detector.
      grid: the values to try, OpenOOD's; the first setting changes fastest.
    """

    make: Callable[..., Detector]
    grid: Mapping[str, tuple[Any, ...]]


_PRUNED = {"percentile": (65.0, 70.0, 75.0, 80.0, 85.0, 90.0, 95.0)}
_ADAPTED = {"percentiles": tuple(combinations((60.0, 65.0, 70.0, 75.0, 80.0, 85.0, 90.0, 95.0, 99.0), 2))}
# What OpenOOD searches, but ViM's dimension, which depends on the network, and gammas of GEN from 1, which it forbids.
TUNABLE: dict[str, Tunable] = {
    "energy": Tunable(made.energy, {"temperature": (1.0, 10.0, 100.0, 1000.0)}),
    "gen": Tunable(made.gen, {"gamma": (0.01, 0.1, 0.5), "top": (10, 50, 100, 200, 500, 1000)}),
    "odin": Tunable(made.odin, {"temperature": (1.0, 10.0, 100.0, 1000.0), "magnitude": (0.0014, 0.0028)}),
    "knn": Tunable(made.knn, {"neighbours": (50, 100, 200, 500, 1000)}),
    "relation": Tunable(made.relation, {"power": (1.0, 2.0, 4.0, 6.0, 8.0)}),
    "fdbd": Tunable(made.fdbd, {"centred": (True, False)}),
    "nci": Tunable(made.nci, {"alpha": (1e-4, 1e-3, 1e-2, 1e-1)}),
    "react": Tunable(made.react, {"percentile": (85.0, 90.0, 95.0, 99.0)}),
    "vra": Tunable(made.vra, {"high": (85.0, 90.0, 95.0, 99.0), "low": (1.0, 5.0, 10.0, 15.0)}),
    "ash": Tunable(made.ash_s, _PRUNED),
    "ash_b": Tunable(made.ash_b, _PRUNED),
    "ash_p": Tunable(made.ash_p, _PRUNED),
    "scale": Tunable(made.scale, _PRUNED),
    "adascale_a": Tunable(made.adascale_a, _ADAPTED),
    "adascale_l": Tunable(made.adascale_l, _ADAPTED),
}


_MAGNITUDES = tuple(i * 0.0002 for i in range(21))
# What ALOE and ATOM search, with the magnitudes of both; ODIN's temperature is not searched there.
TUNABLE_ALOE: dict[str, Tunable] = {
    "odin": Tunable(made.odin, {"temperature": (1000.0,), "magnitude": _MAGNITUDES}),
    "mahalanobis_layers": Tunable(detectors.mahalanobis_layers, {"magnitude": _MAGNITUDES}),
}
GRIDS: dict[str, dict[str, Tunable]] = {"openood": TUNABLE, "aloe": TUNABLE_ALOE}


def tunable(name: str, grids: str = "openood") -> Tunable | None:
    """Find the grid of a detector by its name or OpenOOD's; None where nothing of it is searched.

    Args:
      name: of the detector.
      grids: a key of `GRIDS`: whose values are tried.
    """
    return GRIDS[grids].get(OPENOOD_NAMES.get(name, name))


def detector(name: str, *, flag: str = "--detectors") -> Detector:
    """Find a detector by name.

    Args:
      name: of the table, or OpenOOD's name of the same score; or `module:name` of a function from logits_fn to a score,
        or of a `Detector`.
      flag: what the name was given to, for the error.
    Raises:
      ValueError: in one line, if there is no such detector, or nothing to import.
    """
    found = named(DETECTORS, OPENOOD_NAMES.get(name, name), flag=flag)
    return found if isinstance(found, Detector) else Detector(lambda inputs: found(inputs.logits_fn))
