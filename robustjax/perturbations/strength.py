"""The strength of a corruption as a perturbation set, and the worst over many corruptions."""

from collections.abc import Callable, Sequence

from jaxtyping import Array

from robustjax import checks
from robustjax.attacks.compose import worst_of
from robustjax.perturbations.corruptions.table import CORRUPTIONS, corrupt
from robustjax.perturbations.sets import PerturbationSet, attack_through
from robustjax.threats import Threat
from robustjax.types import Attack, Images, Keys


def strength(name: str, *, strongest: float = 5.0) -> PerturbationSet:
    """Corrupt each image at a severity u between 0 and `strongest`; its key fixes the noise, flakes or drops.

    Args:
      name: of the corruption, as in CIFAR-10-C.
      strongest: in (0, 5].
    Raises:
      ValueError: for another name or severity.
    """
    one = corrupt(name)
    checks.number("strength", "strongest", strongest, above=0, most=5)

    def decode(key: Keys, x: Images, u: Array) -> Images:
        return one(key, x, u[:, 0])

    return PerturbationSet(decode, Threat("linf", strongest, 0.0, strongest), 1)


def worst_corruption(
    attack: Callable[[Threat], Attack],
    *,
    names: Sequence[str] = tuple(CORRUPTIONS),
    strongest: float = 5.0,
) -> Attack:
    """Look for the worst severity of each corruption, and keep per example the worst of all.

    Args:
      attack: builds the search of one severity, a vector of length 1, from its threat. With
        `lambda threat: as_attack(grid(threat, counts=(6,)))` it tries every whole severity.
      names: of the corruptions; all nineteen by default. Each draws noise of its own.
      strongest: the highest severity, in (0, 5].
    Returns:
      An attack (key, logits_fn, x, y) -> Found: the corrupted image and its margin, never below that of x.
    Raises:
      ValueError: for an unknown name, no name at all, or another severity.

    Reference: Chen et al. 2021, arXiv:2006.15207, who take the worst of nineteen corruptions at five severities.
    """
    if not names:
        raise ValueError("worst_corruption: names is empty, must hold at least one")
    spaces = [strength(name, strongest=strongest) for name in names]
    return worst_of(*(attack_through(space, attack(space.threat)) for space in spaces))
