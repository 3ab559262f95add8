"""Classifiers by name, and the normalisation of each data set.

A model is a factory that returns a `types.Model`. It gets what it has parameters for, by these names: `classes`,
`shape` (h, w, c of an image), `dtype`, `mean` and `std` (per channel, of images in [0, 1]; None where the data set has
no constants) and `remat`. So `--model module:name` takes a function of yours such as

    def my_model(classes, shape, mean, std):
        return from_flax(MyModule(classes), shape=shape, mean=mean, std=std)
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from robustjax.catalog.names import built, named, parameters
from robustjax.models import normalisation, preact, resnet, resnet_imagenet, resnet_small, small
from robustjax.models.densenet import densenet
from robustjax.models.densenet_imagenet import densenet121_imagenet
from robustjax.models.wideresnet import wideresnet
from robustjax.types import Model

MODELS: dict[str, Callable[..., Model]] = {
    "linear": small.linear,
    "mlp": small.mlp,
    "convnet_small": small.convnet_small,
    "convnet": small.convnet,
    "resnet8": resnet_small.resnet8,
    "resnet8_48": partial(resnet_small.resnet8, width=48),
    "resnet18": resnet.resnet18,
    "resnet34": resnet.resnet34,
    "resnet50": resnet.resnet50,
    "resnet18_imagenet": resnet_imagenet.resnet18_imagenet,
    "resnet50_imagenet": resnet_imagenet.resnet50_imagenet,
    "preact_resnet18": preact.preact_resnet18,
    "densenet40": partial(densenet, depth=40),
    "densenet100": densenet,
    "densenet121_imagenet": densenet121_imagenet,
    "wideresnet40_4": partial(wideresnet, depth=40, width=4),
    "wideresnet28_10": partial(wideresnet, depth=28, width=10),
    "wideresnet34_10": partial(wideresnet, depth=34, width=10),
    # With SiLU (swish), as leaderboards train them on generated images.
    "wideresnet28_10_silu": partial(wideresnet, depth=28, width=10, activation=jax.nn.silu),
    "wideresnet34_20_silu": partial(wideresnet, depth=34, width=20, activation=jax.nn.silu),
    "wideresnet70_16_silu": partial(wideresnet, depth=70, width=16, activation=jax.nn.silu),
}
NORMALISATIONS = {
    "cifar10": normalisation.CIFAR10,
    "cifar100": normalisation.CIFAR100,
    "svhn_cropped": normalisation.SVHN,
    "gtsrb": normalisation.GTSRB,
    "gtsrb/aloe": normalisation.GTSRB,
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

    Args:
      name: a key of `MODELS`, or `module:name` of a factory as described above.
      dataset: whose normalisation is taken.
      classes: number of logits.
      shape: of one image, (h, w, c).
      dtype: what the network computes in, a key of `DTYPES`.
      remat: recompute what lies inside residual blocks.
    Raises:
      ValueError: for an unknown model or dtype, or `remat` with a model that has no residual blocks.
    """
    factory = named(MODELS, name, flag="--model")
    if dtype not in DTYPES:
        raise ValueError(f"--dtype is {dtype!r}, must be one of {', '.join(DTYPES)}")
    wanted = parameters(factory, flag="--model")
    # Without constants of the data set a default of the network's own stays.
    none = {name: None for name in ("mean", "std") if wanted.get(name)}
    constants: Any = NORMALISATIONS.get(dataset, none)
    offered = {"classes": classes, "shape": shape, "dtype": DTYPES[dtype], **constants}
    if remat and "remat" not in wanted:
        raise ValueError(f"--remat is set, must not be with --model {name}, which has no residual blocks")
    model = built(factory, offered | ({"remat": True} if remat else {}), flag=f"--model {name}")
    if not isinstance(model, Model):
        raise ValueError(
            f"--model {name} gives a {type(model).__name__}, must give a types.Model, as models.adapters makes them"
        )
    return model
