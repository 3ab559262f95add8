"""Wide ResNets as published checkpoints compute them, beside `wideresnet`.

Strided convolutions pad all sides (`wideresnet`), or only the lower and right ones. Loaded into the wrong one, a
checkpoint loses some accuracy, and nothing in its weights warns.

Feature taps: see `preactivated`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array

from robustjax.models.adapters import from_flax
from robustjax.models.layers import DType
from robustjax.models.preactivated import Form, Preactivated
from robustjax.models.standardised import standardised
from robustjax.models.wideresnet import wideresnet
from robustjax.types import Model

CIFAR = (32, 32, 3)


def wideresnet_gowal(
    *,
    depth: int = 28,
    width: int = 10,
    classes: int = 10,
    shape: tuple[int, ...] = CIFAR,
    activation: Callable[[Array], Array] = nn.swish,
    sparse: bool = False,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    dtype: DType = jnp.float32,
    remat: bool = False,
) -> Model:
    """Build the wide ResNet whose strided convolutions pad below and to the right only, with swish.

    Its stem is named init_conv, so that weights of the other wide ResNet do not fit by accident.

    Args:
      depth: 6 n + 4 for n blocks in each of three groups.
      width: factor on the 16, 32 and 64 channels of the groups.
      classes: number of logits.
      shape: of one image, (h, w, c).
      activation: elementwise; not told by the weights either.
      sparse: with a `layers.MeanSparse` after each BatchNorm and each addition.
      mean, std: normalisation per channel, see `normalisation`.
      dtype: what the network computes in; parameters, BatchNorm and logits are float32.
      remat: keep only what lies between blocks, and compute the rest once more in the backward pass.
    Raises:
      ValueError: for a depth that is not 6 n + 4, or a width below 1.

    Reference: Gowal et al. 2020, arXiv:2010.03593; also of Rebuffi et al. 2021, arXiv:2103.01946, Gowal et al.
      2021, arXiv:2110.09468, and Wang et al. 2023, arXiv:2302.04638; sparse: Amini et al. 2024, arXiv:2406.05927.
    """
    form = Form(activation, lower_right=True, sparse=sparse)
    net = _wide("wideresnet_gowal", depth, width, classes, form, stem="init_conv", dtype=dtype, remat=remat)
    return from_flax(net, shape=shape, mean=mean, std=std)


def wideresnet_cosine(
    *,
    depth: int = 34,
    width: int = 20,
    classes: int = 10,
    shape: tuple[int, ...] = CIFAR,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    dtype: DType = jnp.float32,
    remat: bool = False,
) -> Model:
    """Build a WideResNet whose logits are cosines between features and class vectors; settings as in `wideresnet`.

    Reference: Pang et al. 2020, arXiv:2002.08619. RobustBench gives the cosines, without the factor of training.
    """
    net = _wide("wideresnet_cosine", depth, width, classes, Form(), cosine=True, dtype=dtype, remat=remat)
    return from_flax(net, shape=shape, mean=mean, std=std)


def wideresnet_pssilu(
    *,
    depth: int = 28,
    width: int = 10,
    classes: int = 10,
    shape: tuple[int, ...] = CIFAR,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    dtype: DType = jnp.float32,
) -> Model:
    """Build a WideResNet whose activation, `preactivated.pssilu`, is learned; settings as in `wideresnet`.

    Reference: Dai et al. 2021, arXiv:2110.05626.
    """
    net = _wide("wideresnet_pssilu", depth, width, classes, Form(), learned=True, dtype=dtype)
    return from_flax(net, shape=shape, mean=mean, std=std)


def wideresnet_standardised(
    *,
    depth: int = 28,
    width: int = 4,
    classes: int = 10,
    shape: tuple[int, ...] = CIFAR,
    dtype: DType = jnp.float32,
    remat: bool = False,
) -> Model:
    """Build a WideResNet that standardises each image by itself (`standardised`), with no constants of a data set.

    Args:
      depth, width, classes, shape, dtype, remat: as in `wideresnet`.

    Reference: Ding et al. 2020, arXiv:1812.02637, as RobustBench computes it.
    """
    return standardised(
        wideresnet(depth=depth, width=width, classes=classes, shape=shape, dtype=dtype, remat=remat)
    )


def wideresnet34_r(
    *,
    widths: tuple[int, int, int] = (320, 640, 512),
    depths: tuple[int, int, int] = (5, 5, 5),
    classes: int = 10,
    shape: tuple[int, ...] = CIFAR,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    dtype: DType = jnp.float32,
    remat: bool = False,
) -> Model:
    """Build WRN-34-R, a wide ResNet with a narrower last group.

    Args:
      widths, depths: channels and blocks of each group.
      classes, shape, mean, std, dtype, remat: as in `wideresnet`.

    Reference: Huang et al. 2021, arXiv:2110.03825; 68,116,698 parameters.
    """
    net = Preactivated("stem_conv", 16, widths, depths, classes, dtype=dtype, remat=remat)
    return from_flax(net, shape=shape, mean=mean, std=std)


def wideresnet_a4(
    *,
    widths: tuple[int, int, int] = (160, 448, 384),
    depths: tuple[int, int, int] = (27, 28, 13),
    classes: int = 10,
    shape: tuple[int, ...] = CIFAR,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    dtype: DType = jnp.float32,
    remat: bool = False,
) -> Model:
    """Build WRN-A4, deep and with swish; settings as in `wideresnet34_r`.

    Reference: Huang et al. 2023, arXiv:2212.11005; 147,291,738 parameters.
    """
    net = Preactivated("stem_conv", 16, widths, depths, classes, Form(nn.swish), dtype=dtype, remat=remat)
    return from_flax(net, shape=shape, mean=mean, std=std)


def rawideresnet(
    *,
    stem_width: int = 96,
    widths: tuple[int, int, int] = (216, 432, 864),
    depths: tuple[int, int, int] = (30, 31, 10),
    classes: int = 10,
    shape: tuple[int, ...] = CIFAR,
    sparse: bool = False,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    dtype: DType = jnp.float32,
    remat: bool = False,
) -> Model:
    """Build RaWRN-70-16: the wide ResNet of Gowal et al. with squeeze and excitation, and other depths and widths.

    Args:
      stem_width: channels of the first convolution.
      widths, depths: channels and blocks of each group.
      classes, shape, mean, std, dtype, remat: as in `wideresnet`.
      sparse: with a `layers.MeanSparse` after each BatchNorm and each addition.

    Reference: Peng et al. 2023, arXiv:2308.16258, 267,240,802 parameters; sparse: Amini et al. 2024, arXiv:2406.05927.
    """
    form = Form(nn.swish, lower_right=True, excite=0.25, sparse=sparse)
    net = Preactivated("init_conv", stem_width, widths, depths, classes, form, dtype=dtype, remat=remat)
    return from_flax(net, shape=shape, mean=mean, std=std)


def _wide(
    who: str, depth: int, width: int, classes: int, form: Form, *, stem: str = "conv1", **settings: Any
) -> Preactivated:
    if depth < 10 or (depth - 4) % 6:
        raise ValueError(f"{who}: depth is {depth}, must be 6 n + 4 with n at least 1")
    if width < 1:
        raise ValueError(f"{who}: width is {width}, must be at least 1")
    widths = (16 * width, 32 * width, 64 * width)
    return Preactivated(stem, 16, widths, ((depth - 4) // 6,) * 3, classes, form, **settings)
