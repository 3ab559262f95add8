"""Detectors of OOD images by name, each scored in a form that does not saturate, so that it can be attacked."""

from robustjax.catalog.names import named
from robustjax.ood import detectors, gaussian_scores, logit_scores
from robustjax.ood import post_processors as made
from robustjax.ood.detectors import Detector, last
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
    "adascale_a": made.ada_scale("activations"),
    "adascale_l": made.ada_scale("logits"),
    "t2fnorm": made.t2fnorm(),
    "dropout": made.dropout(),
    "rankfeat": made.rank_feat(),
    "gram": made.gram_matrices(),
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
