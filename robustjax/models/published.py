"""Pre-activation ResNets as published checkpoints compute them, where weights do not tell them from ours.

Of a pre-activation ResNet-18 there are several: a shortcut that changes shape reads the activation (`preact`), or
the input of the block; and a BatchNorm and activation follow the last block, or not. Loaded into the wrong one, a
checkpoint loses some accuracy, and nothing in its weights warns. `published_wide` has the wide ones.

Feature taps: see `preactivated`.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from robustjax.models.adapters import from_flax
from robustjax.models.layers import DType
from robustjax.models.preactivated import Form, Preactivated
from robustjax.types import Model

CIFAR = (32, 32, 3)
WIDTHS = (64, 128, 256, 512)


def preact_resnet18_wong(
    *,
    classes: int = 10,
    shape: tuple[int, ...] = CIFAR,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    dtype: DType = jnp.float32,
    remat: bool = False,
) -> Model:
    """Build the PreActResNet-18 whose shortcuts read the input of a block; settings as in `resnet.resnet18`.

    Reference: Wong et al. 2020, arXiv:2001.03994, and Andriushchenko and Flammarion 2020, arXiv:2007.02617, as
      RobustBench computes them; 11,171,146 parameters.
    """
    net = _resnet18(classes, Form(early=True), last_norm=False, dtype=dtype, remat=remat)
    return from_flax(net, shape=shape, mean=mean, std=std)


def preact_resnet18_rice(
    *,
    classes: int = 10,
    shape: tuple[int, ...] = CIFAR,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    dtype: DType = jnp.float32,
    remat: bool = False,
) -> Model:
    """Build the PreActResNet-18 with a last BatchNorm and ReLU; settings as in `resnet.resnet18`.

    Reference: Rice et al. 2020, arXiv:2002.11569, as RobustBench computes it; 11,172,170 parameters.
    """
    return from_flax(_resnet18(classes, Form(), dtype=dtype, remat=remat), shape=shape, mean=mean, std=std)


def preact_resnet18_gowal(
    *,
    classes: int = 10,
    shape: tuple[int, ...] = CIFAR,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    dtype: DType = jnp.float32,
    remat: bool = False,
) -> Model:
    """Build the PreActResNet-18 with swish and 3x3 shortcuts; settings as in `resnet.resnet18`.

    A shortcut that changes shape reads the input of its block, strided convolutions pad below and to the right only,
    and BatchNorm and swish follow the last block.

    Reference: Gowal et al. 2021, arXiv:2110.09468; also of Rebuffi et al. 2021, arXiv:2103.01946, and Rade and
      Moosavi-Dezfooli 2021; 12,548,426 parameters.
    """
    form = Form(nn.swish, early=True, shortcut_kernel=3, lower_right=True)
    net = _resnet18(classes, form, stem="conv_2d", dtype=dtype, remat=remat)
    return from_flax(net, shape=shape, mean=mean, std=std)


def preact_resnet18_affine_free(
    *,
    widening: int = 2,
    classes: int = 10,
    shape: tuple[int, ...] = CIFAR,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    dtype: DType = jnp.float32,
    remat: bool = False,
) -> Model:
    """Build the wide PreActResNet-18 whose BatchNorms neither scale nor shift; settings as in `resnet.resnet18`.

    All shortcuts read the first activation of a block; one that changes shape has a BatchNorm; the linear layer has
    no bias.

    Args:
      widening: the last three of the four groups have widening + 1 times half the usual channels.
      classes, shape, mean, std, dtype, remat: as in `resnet.resnet18`.
    Raises:
      ValueError: if widening is below 0.

    Reference: Diffenderfer et al. 2021, arXiv:2106.09129, whose binary networks are of it; 24,868,032 parameters.
    """
    if widening < 0:
        raise ValueError(f"preact_resnet18_affine_free: widening is {widening}, must be at least 0")
    wide = widening + 1
    net = _resnet18(
        classes,
        Form(late=True, affine=False, shortcut_norm=True),
        widths=(64, 64 * wide, 128 * wide, 256 * wide),
        bias=False,
        dtype=dtype,
        remat=remat,
    )
    return from_flax(net, shape=shape, mean=mean, std=std)


def preact_resnet50_chen(
    *,
    classes: int = 10,
    shape: tuple[int, ...] = CIFAR,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    dtype: DType = jnp.float32,
    remat: bool = False,
) -> Model:
    """Build the pre-activation ResNet-50 with BatchNorm and ReLU after the stem; settings as in `resnet.resnet18`.

    A shortcut that changes shape reads the first activation and has a BatchNorm; none follows the last block.

    Reference: Chen et al. 2020, arXiv:2003.12862, as RobustBench computes it; 23,516,874 parameters.
    """
    net = Preactivated(
        "conv1",
        64,
        WIDTHS,
        (3, 4, 6, 3),
        classes,
        Form(shortcut_norm=True),
        bottleneck=True,
        stem_norm=True,
        last_norm=False,
        dtype=dtype,
        remat=remat,
    )
    return from_flax(net, shape=shape, mean=mean, std=std)


def _resnet18(
    classes: int, form: Form, *, stem: str = "conv1", widths: tuple[int, ...] = WIDTHS, **settings: Any
) -> Preactivated:
    return Preactivated(stem, 64, widths, (2, 2, 2, 2), classes, form, **settings)
