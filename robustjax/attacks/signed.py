"""Objectives whose sign says whether an attack has succeeded: what searches for the nearest adversarial point need."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

from robustjax import logit

F = TypeVar("F", bound=Callable[..., Any])
LOSSES = (logit.margin, logit.probability_margin, logit.dlr, logit.targeted_margin, logit.targeted_dlr)


def signed(fn: F) -> F:
    """Say that a function is positive where the attack has succeeded, negative elsewhere, and zero on the boundary.

    `fmn`, `deepfool`, `fab`, `ddn` and `carlini_wagner` look for the nearest point where that is so. Cross-entropy,
    positive everywhere, would tell them that x itself is adversarial, and leave every image as it is.

    Args:
      fn: a loss of logits, an objective, or what makes an objective, such as `objectives.margin`.
    Returns:
      The same function, marked; so is any function that it returns.
    """

    @functools.wraps(fn)
    def marked(*args: Any, **kwargs: Any) -> Any:
        result = fn(*args, **kwargs)
        return signed(result) if callable(result) else result

    vars(marked)["is_signed"] = True
    return cast(F, marked)


def is_signed(fn: Callable[..., Any]) -> bool:
    """Say whether a function is known to be signed: one of ours, or marked."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    return fn in LOSSES or getattr(fn, "is_signed", False)


def require_signed(who: str, fn: Callable[..., Any]) -> None:
    """Refuse an objective that is not known to be signed.

    Raises:
      ValueError: if it is not.
    """
    if not is_signed(fn):
        name = getattr(fn, "__name__", type(fn).__name__)
        raise ValueError(
            f"{who}: looks for the nearest point where its objective is positive, which must mean misclassified, and "
            f"{name} is not known to say so; use margin, or mark a function that does by attacks.signed"
        )
