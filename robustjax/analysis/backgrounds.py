"""What a change of background does to predictions, and what it leaves of accuracy. Numpy on the host."""

import numpy as np
from numpy.typing import ArrayLike


def gap(same: ArrayLike, random: ArrayLike) -> float:
    """Compute accuracy on backgrounds of the own class minus accuracy on those of a random class.

    It cannot exceed the first: give gap / accuracy beside it.

    Args:
      same: 1 where the prediction on `mixed_same` images is right, (n,).
      random: the same on `mixed_rand` images.

    Reference: Xiao et al. 2020, arXiv:2006.09994.
    """
    return float(np.asarray(same).mean() - np.asarray(random).mean())


def flip_rate(first: ArrayLike, second: ArrayLike) -> float:
    """Say how often the prediction changes with the background.

    Args:
      first, second: predicted classes (n,) for the same objects on two backgrounds.
    """
    return float(np.mean(np.asarray(first) != np.asarray(second)))


def coarse(logits: ArrayLike, to_coarse: ArrayLike, *, restricted: bool = False) -> np.ndarray:
    """Turn logits over fine classes into predictions of coarse classes, -1 for none: (n,).

    The published evaluation on ImageNet-9 counts a class that maps nowhere as an error, which punishes networks
    whose errors leave the nine; `restricted` chooses among mapped classes alone. ObjectNet is evaluated alike.

    Args:
      logits: (n, k).
      to_coarse: integers (k,), the coarse class of each fine one or -1.
      restricted: ignore the logits of classes that map to -1.
    Raises:
      ValueError: if there is not one entry for each logit.
    """
    logits, to_coarse = np.asarray(logits), np.asarray(to_coarse)
    if to_coarse.shape != logits.shape[-1:]:
        raise ValueError(
            f"backgrounds.coarse: to_coarse is {list(to_coarse.shape)} for logits {list(logits.shape)}, must have "
            "one entry for each class"
        )
    if restricted:
        logits = np.where(to_coarse >= 0, logits, -np.inf)
    return to_coarse[logits.argmax(axis=-1)]


def effective_robustness(
    shifted: ArrayLike, clean: ArrayLike, *, baseline_shifted: ArrayLike, baseline_clean: ArrayLike
) -> np.ndarray:
    """Compute accuracy under shift beyond what the clean accuracy predicts, by a line through standard models.

    The line is fitted by least squares on the logit scale, log(a / (1 - a)), on which accuracies lie on lines.

    Args:
      shifted, clean: accuracies in (0, 1) of the models in question, any shape.
      baseline_shifted, baseline_clean: those of standard models (m,), at least two of different clean accuracy.
    Raises:
      ValueError: if the baseline does not determine a line.

    Reference: Taori et al. 2020, arXiv:2007.00644.
    """
    x, y = _logit(baseline_clean).ravel(), _logit(baseline_shifted).ravel()
    if x.size < 2 or np.ptp(x) == 0:
        raise ValueError(
            f"backgrounds.effective_robustness: {x.size} baseline models, must be at least two of different accuracy"
        )
    slope, offset = np.polyfit(x, y, 1)
    return np.asarray(shifted, np.float64) - 1 / (1 + np.exp(-(slope * _logit(clean) + offset)))


def _logit(a: ArrayLike) -> np.ndarray:
    a = np.asarray(a, np.float64)
    return np.log(a) - np.log1p(-a)
