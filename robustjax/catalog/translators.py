"""Translators by name: how the network of each is built, and how it becomes a function (key, images) -> images.

    model = network("pix2pix", shape=(16, 16, 1), sizes=Sizes(width=16))
    translate = translator("pix2pix", Network(model, params, state, {}))     # (key, x) -> x

Anything of your own is `module:name` of such a function: it has no network, and nothing is trained.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from robustjax.catalog.names import imported, named
from robustjax.losses.diffusion import trainable
from robustjax.models import diffusion, pix2pixhd
from robustjax.models.translator import autoencoder, unet_translator
from robustjax.ood.purify import purify
from robustjax.ood.translate import Translate
from robustjax.types import Images, Model, Network

Shape = tuple[int, ...]


class Sizes(NamedTuple):
    """How large a translator is.

    Attributes:
      width: channels of its first layer, ngf.
      depth: how often it halves the image: down to one pixel by default, of pix2pixhd twice.
      blocks: residual blocks, of pix2pixhd.
      residual: of pix2pix and atop: add to the image instead of painting it anew.
    """

    width: int = 16
    depth: int | None = None
    blocks: int = 6
    residual: bool = False


DEFAULT = Sizes()


class Translator(NamedTuple):
    """A kind of translator.

    Attributes:
      network: (shape of an image, sizes) -> the network that is trained.
      paired: whether it trains on pairs of an image and a perturbed one; else on images alone.
      adversarial: whether it trains against attacks through itself afterwards.
      random: whether it draws anew at every call: attacks then average over draws.
    """

    network: Callable[[Shape, Sizes], Model]
    paired: bool = True
    adversarial: bool = False
    random: bool = False


def _unet(shape: Shape, sizes: Sizes) -> Model:
    return unet_translator(shape=shape, width=sizes.width, depth=sizes.depth, residual=sizes.residual)


def _large(shape: Shape, sizes: Sizes) -> Model:
    return pix2pixhd.global_generator(
        shape=shape, width=sizes.width, halvings=sizes.depth or 2, blocks=sizes.blocks
    )


TRANSLATORS: dict[str, Translator] = {
    "pix2pix": Translator(_unet),
    "pix2pixhd": Translator(_large),
    "dae": Translator(lambda shape, sizes: autoencoder(shape=shape, widths=(sizes.width, 2 * sizes.width))),
    "ddpm": Translator(lambda shape, sizes: trainable(denoiser(shape, sizes)), paired=False, random=True),
    "atop": Translator(_unet, adversarial=True),
}


@functools.cache
def network(name: str, *, shape: Shape, sizes: Sizes) -> Model:
    """Build the network of a translator; the same sizes give one object, so that copies share compiled programs.

    Args:
      name: of `TRANSLATORS`.
      shape: of an image, (h, w, c).
      sizes: how large.
    Raises:
      ValueError: for an unknown name.
    """
    return named(TRANSLATORS, name, flag="--kind").network(shape, sizes)


def translator(
    name: str, trained: Network | None, *, sizes: Sizes = DEFAULT, until: float = 0.1, steps: int = 20
) -> Translate:
    """Turn a trained network into (key, images) -> images, a `jax.tree_util.Partial` over its weights.

    Args:
      name: of `TRANSLATORS`, or `module:name` of a function (key, images) -> images.
      trained: its network; None for `module:name`.
      sizes: of ddpm's network.
      until: the time in (0, 1] up to which ddpm adds noise.
      steps: of ddpm's way back.
    Raises:
      ValueError: for an unknown name, or without a network.
    """
    if name not in TRANSLATORS and ":" in name:
        return jax.tree_util.Partial(imported(name, flag="--kind"))
    kind = named(TRANSLATORS, name, flag="--kind")
    if trained is None:
        raise ValueError(f"translator: {name} has no trained network, give one")
    if kind.random:
        return jax.tree_util.Partial(_purifying(sizes, until, steps), trained.params)
    return jax.tree_util.Partial(_ignoring_keys(trained.model.apply), trained.params, trained.state)


def denoiser(shape: Shape, sizes: Sizes) -> diffusion.Denoiser:
    """Build the network of ddpm, which predicts noise."""
    return diffusion.small_denoiser(shape=shape, widths=(sizes.width, 2 * sizes.width, 2 * sizes.width))


@functools.cache
def _purifying(sizes: Sizes, until: float, steps: int) -> Callable[..., Images]:
    def translate(params: Any, key: jax.Array, x: Images) -> Images:
        ours = denoiser(x.shape[1:], sizes)
        return purify(ours, params, diffusion.Process(), until=until, steps=steps)(key, x)

    return translate


@functools.cache
def _ignoring_keys(apply: Any) -> Callable[..., Images]:
    return lambda params, state, key, x: apply(params, state, x)[0]
