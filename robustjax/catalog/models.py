"""Classifiers by name, and the normalisation of each data set."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from robustjax.models import normalisation, preact, resnet, resnet_imagenet, small
from robustjax.models.densenet import densenet
from robustjax.models.wideresnet import wideresnet
from robustjax.types import Model

MODELS: dict[str, Callable[..., Model]] = {
    "linear": small.linear,
    "mlp": small.mlp,
    "convnet_small": small.convnet_small,
    "convnet": small.convnet,
    "resnet18": resnet.resnet18,
    "resnet34": resnet.resnet34,
    "resnet50": resnet.resnet50,
    "resnet18_imagenet": resnet_imagenet.resnet18_imagenet,
    "resnet50_imagenet": resnet_imagenet.resnet50_imagenet,
    "preact_resnet18": preact.preact_resnet18,
    "densenet40": lambda **settings: densenet(depth=40, **settings),
    "densenet100": densenet,
    "wideresnet40_4": lambda **settings: wideresnet(depth=40, width=4, **settings),
    "wideresnet28_10": lambda **settings: wideresnet(depth=28, width=10, **settings),
    "wideresnet34_10": lambda **settings: wideresnet(depth=34, width=10, **settings),
}
NORMALISATIONS = {
    "cifar10": normalisation.CIFAR10,
    "cifar100": normalisation.CIFAR100,
    "svhn_cropped": normalisation.SVHN,
    "restricted_imagenet": normalisation.RESTRICTED_IMAGENET,
    "imagenet2012": normalisation.IMAGENET,
}
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def classifier(
    name: str,
    *,
    dataset: str,
    classes: int,
    shape: tuple[int, ...],
    dtype: str = "float32",
    remat: bool = False,
) -> Model:
    """Build a model by name, normalised as its data set asks; with `remat` where it has blocks to recompute.

    Raises:
      ValueError: for an unknown model or dtype, or `remat` with a model that has no residual blocks.
    """
    if name not in MODELS:
        raise ValueError(f"--model is {name!r}, must be one of {', '.join(MODELS)}")
    if dtype not in DTYPES:
        raise ValueError(f"--dtype is {dtype!r}, must be one of {', '.join(DTYPES)}")
    constants: Any = NORMALISATIONS.get(dataset, {})
    if remat and not name.startswith(("resnet", "wideresnet")):
        raise ValueError(f"--remat is set, must not be with --model {name}, which has no residual blocks")
    kept: Any = {"remat": True} if remat else {}
    return MODELS[name](classes=classes, shape=shape, dtype=DTYPES[dtype], **constants, **kept)
