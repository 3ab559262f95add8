"""On which background each planted object is shown, in every variant of a set.

All numbers come from numpy's legacy generator, whose streams are frozen.
"""

from typing import Literal, get_args

import numpy as np

Split = Literal["train", "validation", "test"]
Variant = Literal[
    "original", "mixed_same", "mixed_rand", "mixed_next", "mixed_other", "only_fg", "no_fg", "only_bg_b", "only_bg_t"
]  # fmt: skip
VARIANTS: tuple[Variant, ...] = get_args(Variant)


def stream(*words: int) -> np.random.RandomState:
    """Begin a stream of random numbers that these words name; that of `default_rng` may change."""
    state = int(np.random.SeedSequence(list(words)).generate_state(1)[0])
    return np.random.RandomState(state)


def correlated(
    label: np.ndarray, *, classes: int, correlation: float, random: np.random.RandomState
) -> np.ndarray:
    """Give a share of each class its own background and deal out the others evenly among the rest.

    Args:
      label: of the objects (n,), 0..classes - 1.
      classes: also how many backgrounds there are.
      correlation: that share, in [0, 1].
      random: chooses who is among it.
    Returns:
      Backgrounds (n,).
    """
    place = np.empty_like(label)
    for c in range(classes):
        members = random.permutation(np.flatnonzero(label == c))
        own = int(np.floor(correlation * len(members) + 0.5))
        place[members[:own]] = c
        rest = np.arange(len(members) - own)
        place[members[own:]] = (c + 1 + rest % (classes - 1)) % classes
    return place


def in_variant(
    variant: Variant, label: np.ndarray, usual: np.ndarray, *, classes: int, seed: int, where: int
) -> np.ndarray:
    """Say which backgrounds a variant shows: those of ImageNet-9, and mixed_other.

    Args:
      variant: mixed_same and only_bg_t show that of the class, mixed_rand any, mixed_next that of the next class,
        mixed_other any but that of the class; the others the usual one.
      label: of the objects (n,).
      usual: backgrounds (n,), as `correlated` gives them.
      classes: also how many backgrounds there are.
      seed, where: name the streams of random numbers, where by the number of the split.
    """
    if variant in ("mixed_same", "only_bg_t"):
        return label
    if variant == "mixed_next":
        return (label + 1) % classes
    if variant == "mixed_rand":
        return stream(seed, where, 3).randint(0, classes, len(label))
    if variant == "mixed_other":
        return (label + 1 + stream(seed, where, 4).randint(0, classes - 1, len(label))) % classes
    return usual


def require(name: str, split: str, variant: str, count: int) -> None:
    """Refuse an unknown split or variant, and no images.

    Raises:
      ValueError: in one line, which begins with `name`.
    """
    if split not in get_args(Split) or variant not in VARIANTS:
        raise ValueError(
            f"{name}: split is {split!r} and variant {variant!r}, must be of {', '.join(get_args(Split))} "
            f"and {', '.join(VARIANTS)}"
        )
    if count < 1:
        raise ValueError(f"{name}: count is {count}, must be at least 1")
