"""What a translation system is made of: sizes, lengths and pairs as one recipe, and the networks it names."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax

from experiments.shared.fields import Fraction
from robustjax.catalog import models as model_names
from robustjax.losses.diffusion import trainable
from robustjax.models import diffusion, pix2pixhd, selfsup, translator
from robustjax.models.small import pooled
from robustjax.perturbations import adversarial_pairs, tones
from robustjax.perturbations.corruptions.table import CORRUPTIONS
from robustjax.types import Images, Model, frozen

Kind = Literal["pix2pix", "pix2pixhd", "dae", "ddpm", "atop"]
Translate = Callable[[jax.Array, Images], Images]


class Network(NamedTuple):
    """A trained network."""

    model: Model
    params: Any
    state: Any

    def __call__(self, x: Images) -> jax.Array:
        """Run it as it is: logits of a classifier, images of a translator."""
        return frozen(*self)(x)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How large the networks are, how long they train, and on which pairs."""

    classifier: str = "pooled"  # or a model of classification.train
    classifier_epochs: int = 20
    encoder: str = "small"  # small, resnet18 or resnet50
    encoder_epochs: int = 25
    encoder_batch: int = 200
    encoder_images: int | None = None  # how many it trains on, all for None
    width: int = 16  # of the translator, ngf
    depth: int | None = None  # halvings of the translator, down to one pixel by default; of pix2pixhd 2
    blocks: int = 6  # residual, of pix2pixhd
    residual: bool = False  # of pix2pix and atop: add to the image instead of painting it anew
    critic_width: int = 32  # ndf
    critic_layers: int = 1  # convolutions of stride 2: patches of 16, 34, 70 pixels
    batch_size: int = 64
    epochs: int = 12  # of the translator
    decay: int = 0  # epochs more, in which the learning rate falls to 0
    rate: float = 2e-4  # of translator and critic
    l1: float = 200.0  # weight of the mean difference of pixels in [0, 1]; 100 in [-1, 1]
    guided: float = 0.0  # weight of the difference in the classifier's eyes; pix2pixhd has 10 unless given
    matching: float = 10.0  # weight of the difference in the critic's eyes, of pix2pixhd
    pool: int = 0  # earlier translations that the critic is shown again
    eps: Fraction = 0.2  # the radius of attacks, linf
    attacks: tuple[str, ...] = ("fgsm", "pgd")  # of `perturbations.adversarial_pairs.ATTACKS`
    shares: tuple[float, ...] = (0.5, 1.0)  # of eps
    shifts: tuple[tuple[str, float], ...] = ()  # such as darker 0.3, or fog 3, a corruption
    pairs_of: int | None = None  # how many training images pairs are made of, all for None
    subset: tuple[tuple[str, float], ...] = (("spsa", 0.05),)  # attacks that get a share of these images only
    refresh: int = 0  # epochs after which pairs are made anew, 0 to make them once
    as_bytes: bool = False  # keep pairs rounded to 8 bits
    adversarial_epochs: int = 10  # of atop, after pix2pix
    adversarial_steps: int = 10  # of its attack
    until: tuple[float, ...] = (0.05, 0.1, 0.15, 0.2)  # times of ddpm to choose from
    steps: int = 20  # of its way back

    def check(self, prefix: str = "recipe.") -> None:
        """Refuse what cannot be meant, before any work."""
        for name, known in (("attacks", adversarial_pairs.ATTACKS), ("encoder", ENCODERS)):
            given = getattr(self, name)
            for one in (given,) if isinstance(given, str) else given:
                if one not in known:
                    raise ValueError(f"--{prefix}{name} has {one!r}, must be of {', '.join(known)}")
        for name, share in self.subset:
            if name not in adversarial_pairs.ATTACKS or not 0 < share <= 1:
                raise ValueError(
                    f"--{prefix}subset has {name!r} with {share:g}, must be an attack and a share in (0, 1]"
                )
        if self.refresh < 0:
            raise ValueError(f"--{prefix}refresh is {self.refresh}, must be at least 0")
        for name, _ in self.shifts:
            if name not in (*tones.SHIFTS, *CORRUPTIONS):
                known = ", ".join((*tones.SHIFTS, *CORRUPTIONS))
                raise ValueError(f"--{prefix}shifts has {name!r}, must be of {known}")
        if self.classifier not in ("pooled", *model_names.MODELS):
            raise ValueError(
                f"--{prefix}classifier is {self.classifier!r}, must be one of pooled, {', '.join(model_names.MODELS)}"
            )
        for name in ("classifier_epochs", "encoder_epochs", "epochs", "batch_size", "encoder_batch", "steps"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"--{prefix}{name.replace('_', '-')} is {getattr(self, name)}, must be at least 1"
                )


NATURAL = (("darker", 0.3), ("sharper", 3.0))
ENCODERS: dict[str, Callable[..., Model]] = {
    "small": selfsup.small_encoder,
    "resnet18": selfsup.resnet18_encoder,
    "resnet50": selfsup.resnet50_encoder,
}
KINDS = get_args(Kind)

# Networks of the same sizes are one object, so that copies with other weights share compiled programs.


@functools.cache
def classifier_of(recipe: Recipe, dataset: str, classes: int, shape: tuple[int, ...]) -> Model:
    """Build the network to be protected."""
    if recipe.classifier == "pooled":
        return pooled(classes=classes, shape=shape)
    return model_names.classifier(recipe.classifier, dataset=dataset, classes=classes, shape=shape)


@functools.cache
def encoder_of(recipe: Recipe, shape: tuple[int, ...]) -> Model:
    """Build the encoder that the gate's features come from."""
    return ENCODERS[recipe.encoder](shape=shape)


def translator_of(kind: Kind, recipe: Recipe, shape: tuple[int, ...]) -> Model:
    """Build the network of a translator; that of ddpm predicts noise and is wrapped by `purifier`."""
    sizes = Recipe(width=recipe.width, depth=recipe.depth, blocks=recipe.blocks, residual=recipe.residual)
    return _built(kind, sizes, shape)


@functools.cache
def _built(kind: Kind, recipe: Recipe, shape: tuple[int, ...]) -> Model:
    if kind == "pix2pixhd":
        return pix2pixhd.global_generator(
            shape=shape, width=recipe.width, halvings=recipe.depth or 2, blocks=recipe.blocks
        )
    if kind == "dae":
        return translator.autoencoder(shape=shape, widths=(recipe.width, 2 * recipe.width))
    if kind == "ddpm":
        return trainable(denoiser_of(recipe, shape))
    return translator.unet_translator(
        shape=shape, width=recipe.width, depth=recipe.depth, residual=recipe.residual
    )


def denoiser_of(recipe: Recipe, shape: tuple[int, ...]) -> diffusion.Denoiser:
    """Build the network of the diffusion."""
    return diffusion.small_denoiser(shape=shape, widths=(recipe.width, 2 * recipe.width, 2 * recipe.width))
