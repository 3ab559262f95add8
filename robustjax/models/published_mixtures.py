"""The mixtures of an accurate and a robust network that public checkpoints are of, with their constants.

A checkpoint is a file for each network, or one state dict of all of them; then it may store the constants too.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from robustjax.models import normalisation
from robustjax.models.adaptive_smoothing import Part, Weighting, adaptive_smoothing
from robustjax.models.bit import HALF, BitResNet, bit_resnet
from robustjax.models.convnext_v2 import convnext_v2
from robustjax.models.layers import DType
from robustjax.models.mixednuts import Sharpening, mixednuts
from robustjax.models.preactivated import Form, Preactivated
from robustjax.models.published_wide import rawideresnet, wideresnet_gowal
from robustjax.models.swin import swin
from robustjax.types import Model

CIFAR = (32, 32, 3)
LARGE = (224, 224, 3)
MEANS = {10: (0.4914, 0.4822, 0.4465), 100: (0.5071, 0.4865, 0.4409)}
STDS = {10: (0.2471, 0.2435, 0.2616), 100: (0.2673, 0.2564, 0.2762)}


class Mixing(NamedTuple):
    """Constants of MixedNUTS, see `mixednuts`."""

    sharpening: Sharpening
    alpha: float
    gradient_alpha: float


WEIGHTINGS = {
    "adaptive_smoothing_cifar10_edm": Weighting(2.0, 1.05, 0.04, 0.96, 1.2, 0.3),
    "adaptive_smoothing_cifar100_edm": Weighting(2.0, 1.3, 0.15, 0.84, 2.0, 1.0),
    "adaptive_smoothing_cifar100_trades": Weighting(2.0, 1.0, 0.1, 0.815, 2.0, 1.0),
}
MIXINGS = {
    "mixednuts_cifar10": Mixing(Sharpening(5.0, 4.0, -1.1), 0.9987500602493457, 0.9570535356459247),
    "mixednuts_cifar100": Mixing(
        Sharpening(0.6115753843212784, 3.571428571428571, -2.142857142857143),
        0.9860300534207915,
        0.9706995384302841,
    ),
    "mixednuts_imagenet": Mixing(
        Sharpening(0.023535468936502525, 2.7142857142857144, -0.2857142857142858),
        0.9971266414518896,
        0.90683792395046,
    ),
}


def smoothing_cifar(
    *,
    weighting: Weighting,
    data: int,
    bit: tuple[tuple[int, ...], int] = ((3, 8, 36, 3), 2),
    wide: tuple[int, int] = (70, 16),
    widths: tuple[int, ...] = (512, 768, 1024),
    classes: int,
    shape: tuple[int, ...] = CIFAR,
    dtype: DType = jnp.float32,
    remat: bool = False,
) -> Model:
    """Build Bai et al.'s mixture of a BiT ResNet, R152x2, and a wide ResNet, WRN-70-16 with swish.

    Args:
      weighting: of the two.
      data: 10 or 100, the data set by whose constants the wide ResNet normalises.
      bit: depths of the groups and factor on the widths of the BiT ResNet.
      wide: depth and width of the wide ResNet.
      widths: of the mixing network.
      classes: number of logits.
      shape: of one image, (h, w, c).
      dtype: what the networks compute in; parameters, statistics and logits are float32.
      remat: keep only what lies between blocks of the two, and compute the rest once more in the backward pass.

    Reference: Bai et al. 2023, arXiv:2301.12554.
    """
    depth, width = wide
    groups, form = (16 * width, 32 * width, 64 * width), Form(nn.swish, lower_right=True)
    steady = Preactivated(
        "init_conv", 16, groups, ((depth - 4) // 6,) * 3, classes, form, dtype=dtype, remat=remat
    )
    return adaptive_smoothing(
        Part(BitResNet(*bit, 128, classes, dtype, remat), HALF, HALF),
        Part(steady, MEANS[data], STDS[data]),
        widths=widths,
        shape=shape,
        weighting=weighting,
        dtype=dtype,
    )


def nuts_cifar10(
    *, classes: int = 10, shape: tuple[int, ...] = CIFAR, dtype: DType = jnp.float32, remat: bool = False
) -> Model:
    """Build MixedNUTS of a BiT ResNet and RaWRN-70-16; settings as in `smoothing_cifar`.

    Reference: Bai et al. 2024, arXiv:2402.02263.
    """
    common: dict[str, Any] = dict(classes=classes, shape=shape, dtype=dtype, remat=remat)
    robust = rawideresnet(mean=MEANS[10], std=STDS[10], **common)
    return mixednuts(bit_resnet(**common), robust, **MIXINGS["mixednuts_cifar10"]._asdict())


def nuts_cifar100(
    *, classes: int = 100, shape: tuple[int, ...] = CIFAR, dtype: DType = jnp.float32, remat: bool = False
) -> Model:
    """Build MixedNUTS of a BiT ResNet and a WRN-70-16 with swish; settings as in `smoothing_cifar`.

    Reference: Bai et al. 2024, arXiv:2402.02263.
    """
    common: dict[str, Any] = dict(classes=classes, shape=shape, dtype=dtype, remat=remat)
    robust = wideresnet_gowal(depth=70, width=16, mean=MEANS[100], std=STDS[100], **common)
    return mixednuts(bit_resnet(**common), robust, **MIXINGS["mixednuts_cifar100"]._asdict())


def nuts_imagenet(
    *, classes: int = 1000, shape: tuple[int, ...] = LARGE, dtype: DType = jnp.float32, remat: bool = False
) -> Model:
    """Build MixedNUTS of a ConvNeXt V2-L and a Swin-L; settings as in `smoothing_cifar`.

    Reference: Bai et al. 2024, arXiv:2402.02263. As in RobustBench's code the ConvNeXt sees images in [0, 1] as they
      are: its class holds ImageNet's mean and deviation, and does not use them.
    """
    common: dict[str, Any] = dict(classes=classes, shape=shape, dtype=dtype, remat=remat)
    accurate = convnext_v2(mean=None, std=None, **common)
    robust = swin(width=192, heads=(6, 12, 24, 48), **common)
    return mixednuts(accurate, robust, **MIXINGS["mixednuts_imagenet"]._asdict())


MIXTURES: dict[str, Callable[..., Model]] = {
    **{
        name: partial(smoothing_cifar, weighting=weighting, data=data, classes=data)
        for (name, weighting), data in zip(WEIGHTINGS.items(), (10, 100, 100), strict=True)
    },
    "mixednuts_cifar10": nuts_cifar10,
    "mixednuts_cifar100": nuts_cifar100,
    "mixednuts_imagenet": nuts_imagenet,
}


def stored(name: str) -> Mapping[str, Sequence[float] | float | None]:
    """List the constants of a mixture that a state dict may store, by their names there; None for one never read."""
    if name in WEIGHTINGS:
        words = ("gamma_scale", "gamma_bias", "alpha_scale", "alpha_bias", "std_scale", "rob_scale")
        found: dict[str, Sequence[float] | float | None] = {
            f"models.2.{word}": value for word, value in zip(words, WEIGHTINGS[name], strict=True)
        }
    elif name in MIXINGS:
        sharpening, alpha, gradient_alpha = MIXINGS[name]
        found = {"models.2._alpha": alpha, "models.2._alpha_diffable": gradient_alpha}
        words = ("scale", "power", "clamp_bias")
        found |= {f"models.2.rob_map.{word}": value for word, value in zip(words, sharpening, strict=True)}
    else:
        return {}
    large = name == "mixednuts_imagenet"
    data = 100 if "cifar100" in name else 10
    inner = {
        "models.0.mean": None if large else HALF,
        "models.0.std": None if large else HALF,
        "models.1.mean": normalisation.IMAGENET["mean"] if large else MEANS[data],
        "models.1.std": normalisation.IMAGENET["std"] if large else STDS[data],
    }
    return found | inner | {k.replace("1.", "1.normalize."): v for k, v in inner.items() if "s.1." in k}
