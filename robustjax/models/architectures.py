"""Networks that published weights are of, by name.

Sizes may be written in a name: wideresnet28_10 is of depth 28 and width 10, and so is any wideresnetD_W; gowalD_W,
and densenetD for growth 12. ensembleN_NAME averages the probabilities of N networks of a name.
"""

import functools
import inspect
import re
from collections.abc import Callable
from typing import Any

from robustjax.models import preact, published, published_wide, resnet, resnet_imagenet, small
from robustjax.models.alexnet import alexnet
from robustjax.models.bit import bit_resnet
from robustjax.models.convnext import convnext
from robustjax.models.convnext_v2 import convnext_v2
from robustjax.models.densenet import densenet
from robustjax.models.densenet_imagenet import densenet121_imagenet
from robustjax.models.ensemble import ensemble
from robustjax.models.published_mixtures import MIXTURES
from robustjax.models.rawideresnet_imagenet import rawideresnet_imagenet
from robustjax.models.resnext import resnext
from robustjax.models.swin import swin
from robustjax.models.vit import vit
from robustjax.models.wideresnet import wideresnet
from robustjax.models.xcit import xcit
from robustjax.types import Model

Factory = Callable[..., Model]

ARCHITECTURES: dict[str, Factory] = {
    "resnet18": resnet.resnet18,
    "resnet18_128": functools.partial(resnet.resnet18, width=128),
    "resnet34": resnet.resnet34,
    "resnet50": resnet.resnet50,
    "resnext29_4x32": resnext,
    "bit_r152x2": bit_resnet,
    "resnet18_imagenet": resnet_imagenet.resnet18_imagenet,
    "resnet50_imagenet": resnet_imagenet.resnet50_imagenet,
    "wideresnet50_2_imagenet": resnet_imagenet.wideresnet50_2_imagenet,
    **{
        f"convnext_{size}{suffix}": functools.partial(convnext, widths=widths, depths=depths, **settings)
        for size, widths, depths, stem in (
            ("t", (96, 192, 384, 768), (3, 3, 9, 3), (48, 96)),
            ("s", (96, 192, 384, 768), (3, 3, 27, 3), (48, 96)),
            ("b", (128, 256, 512, 1024), (3, 3, 27, 3), (64, 96, 128)),
            ("l", (192, 384, 768, 1536), (3, 3, 27, 3), (96, 144, 192)),
        )
        for suffix, settings in (("", {}), ("_convstem", {"stem": stem}), ("_sparse", {"sparse": True}))
    },
    "convnext_v2_l": convnext_v2,
    **{
        f"vit_{size}{suffix}": functools.partial(vit, width=width, heads=heads, stem=bool(suffix))
        for size, width, heads in (("s", 384, 6), ("b", 768, 12))
        for suffix in ("", "_convstem")
    },
    **{
        f"xcit_{size}12{suffix}": functools.partial(xcit, width=width, heads=heads, **settings)
        for size, width, heads in (("s", 384, 8), ("m", 512, 8), ("l", 768, 16))
        for suffix, settings in (("", {}), ("_cifar", {"patch": 4, "classes": 10, "shape": (32, 32, 3)}))
    },
    "swin_b": swin,
    "swin_l": functools.partial(swin, width=192, heads=(6, 12, 24, 48)),
    "swin_l_sparse": functools.partial(swin, width=192, heads=(6, 12, 24, 48), sparse=True),
    "swin_b_mimir": functools.partial(swin, eps=1e-6),
    "swin_l_mimir": functools.partial(swin, width=192, heads=(6, 12, 24, 48), window=14, eps=1e-6),
    "alexnet": alexnet,
    "rawideresnet101_2_imagenet": rawideresnet_imagenet,
    "convnet_small": small.convnet_small,
    "preact_resnet18": preact.preact_resnet18,
    "preact_resnet18_wong": published.preact_resnet18_wong,
    "preact_resnet18_rice": published.preact_resnet18_rice,
    "preact_resnet18_gowal": published.preact_resnet18_gowal,
    "preact_resnet18_affine_free": published.preact_resnet18_affine_free,
    "preact_resnet50_chen": published.preact_resnet50_chen,
    "wideresnet34_r": published_wide.wideresnet34_r,
    "wideresnet_a4": published_wide.wideresnet_a4,
    "rawideresnet70_16": published_wide.rawideresnet,
    "rawideresnet70_16_sparse": functools.partial(published_wide.rawideresnet, sparse=True),
    "densenet40": functools.partial(densenet, depth=40),
    "densenet100": densenet,
    "densenet121_imagenet": densenet121_imagenet,
    **{
        f"wideresnet{depth}_{width}": functools.partial(wideresnet, depth=depth, width=width)
        for depth, width in ((28, 4), (28, 10), (34, 10), (34, 15), (34, 20), (40, 2), (40, 4), (70, 16))
    },
    "wideresnet28_4_standardised": published_wide.wideresnet_standardised,
    "wideresnet34_20_cosine": published_wide.wideresnet_cosine,
    "wideresnet28_10_pssilu": published_wide.wideresnet_pssilu,
    **{
        f"gowal{depth}_{width}": functools.partial(published_wide.wideresnet_gowal, depth=depth, width=width)
        for depth, width in ((28, 10), (34, 10), (34, 20), (70, 16), (82, 8), (94, 16), (106, 16))
    },
    "gowal70_16_sparse": functools.partial(published_wide.wideresnet_gowal, depth=70, width=16, sparse=True),
    "gowal94_16_sparse": functools.partial(published_wide.wideresnet_gowal, depth=94, width=16, sparse=True),
    **MIXTURES,
}
SIZED: tuple[tuple[str, Factory], ...] = (
    (r"wideresnet(?P<depth>\d+)_(?P<width>\d+)", wideresnet),
    (r"wideresnet(?P<depth>\d+)_(?P<width>\d+)_standardised", published_wide.wideresnet_standardised),
    (r"wideresnet(?P<depth>\d+)_(?P<width>\d+)_cosine", published_wide.wideresnet_cosine),
    (r"wideresnet(?P<depth>\d+)_(?P<width>\d+)_pssilu", published_wide.wideresnet_pssilu),
    (r"gowal(?P<depth>\d+)_(?P<width>\d+)", published_wide.wideresnet_gowal),
    (
        r"gowal(?P<depth>\d+)_(?P<width>\d+)_sparse",
        functools.partial(published_wide.wideresnet_gowal, sparse=True),
    ),
    (r"densenet(?P<depth>\d+)", densenet),
    (r"densenet(?P<depth>\d+)_(?P<growth>\d+)", densenet),
    (r"resnet18_(?P<width>\d+)", resnet.resnet18),
)


def architecture(name: str) -> Factory:
    """Look up the factory of a network.

    Args:
      name: a key of `ARCHITECTURES`, or one with sizes or an ensemble as described above.
    Raises:
      ValueError: in one line, listing the names, if there is none.
    """
    if name in ARCHITECTURES:
        return ARCHITECTURES[name]
    for pattern, factory in SIZED:
        if found := re.fullmatch(pattern, name):
            return functools.partial(factory, **{key: int(value) for key, value in found.groupdict().items()})
    if found := re.fullmatch(r"ensemble(\d+)_(.+)", name):
        return _ensemble(int(found[1]), architecture(found[2]))
    raise ValueError(
        f"architecture is {name!r}, must be one of {', '.join(ARCHITECTURES)}; other sizes are written as in "
        "wideresnet16_8 or gowal40_4, and ensemble3_NAME averages three"
    )


def normalises_itself(name: str) -> bool:
    """Say whether a network takes no mean and std: it standardises each image, or mixes networks with theirs."""
    return name.endswith("_standardised") or name in MIXTURES


def _ensemble(count: int, factory: Factory) -> Factory:
    def build(**settings: Any) -> Model:
        return ensemble([factory(**settings)] * count)

    build.__signature__ = inspect.signature(factory)  # pyright: ignore[reportFunctionMemberAccess]
    return build
