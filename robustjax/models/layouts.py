"""From a layer of ours to what public PyTorch code may call it, one function for each way to name layers.

Ours are named as "stage2_block0/conv1"; the parts of a block count from 1.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

Layout = Callable[[str], tuple[str, ...]]


def common(layer: str) -> tuple[str, ...]:
    """Name a layer as pytorch-cifar and torchvision do."""
    return _named(
        layer,
        {"conv1": "conv1", "norm1": "bn1", "norm": ("bn", "bn1"), "head": ("linear", "fc")},
        lambda i, j: f"layer{i}.{j}.",
        {
            "conv": lambda k: f"conv{k}",
            "norm": lambda k: f"bn{k}",
            "shortcut_conv": ("shortcut.0", "downsample.0"),
            "shortcut_norm": ("shortcut.1", "downsample.1"),
        },
    )


def from_zero(layer: str) -> tuple[str, ...]:
    """Name a layer as `common` does, with the BatchNorms of a block counted from 0, as Chen et al. do."""
    return _named(
        layer,
        {"conv1": "conv1", "norm1": "bn1", "head": ("linear", "fc")},
        lambda i, j: f"layer{i}.{j}.",
        {
            "conv": lambda k: f"conv{k}",
            "norm": lambda k: f"bn{k - 1}",
            "shortcut_conv": "shortcut.0",
            "shortcut_norm": "shortcut.1",
        },
    )


def trades(layer: str) -> tuple[str, ...]:
    """Name a layer of a wide ResNet as TRADES, MART and many after them do."""
    return _named(
        layer,
        {"conv1": "conv1", "norm": "bn1", "head": ("fc", "linear"), "": "activation"},
        lambda i, j: f"block{i}.layer.{j}.",
        {"conv": lambda k: f"conv{k}", "norm": lambda k: f"bn{k}", "shortcut_conv": "convShortcut"},
    )


def dense(layer: str) -> tuple[str, ...]:
    """Name a layer of a DenseNet-BC as ALOE and ATOM do: three blocks, and two transitions between."""
    outer = {"conv1": "conv1", "norm1": "trans1.bn1", "norm2": "trans2.bn1", "norm3": "bn1", "head": "fc"}
    outer |= {"transition1": "trans1.conv1", "transition2": "trans2.conv1"}
    parts = {"conv": lambda k: f"conv{k}", "norm": lambda k: f"bn{k}"}
    return _named(layer, outer, lambda i, j: f"block{i}.layer.{j}.", parts)


def dense_imagenet(layer: str) -> tuple[str, ...]:
    """Name a layer of a DenseNet-BC for large images as torchvision does."""
    outer = {"conv1": "features.conv0", "norm_stem": "features.norm0", "head": "classifier"}
    outer |= {f"transition{i}": f"features.transition{i}.conv" for i in (1, 2, 3)}
    outer |= {f"norm{i}": f"features.transition{i}.norm" for i in (1, 2, 3)} | {"norm4": "features.norm5"}
    parts = {"conv": lambda k: f"conv{k}", "norm": lambda k: f"norm{k}"}
    return _named(layer, outer, lambda i, j: f"features.denseblock{i}.denselayer{j + 1}.", parts)


def gowal(layer: str) -> tuple[str, ...]:
    """Name a layer of a wide ResNet as Gowal et al. and many after them do."""
    return _named(
        layer,
        {"init_conv": "init_conv", "norm": "batchnorm", "head": "logits", "sparse": "meansparse_end"},
        lambda i, j: f"layer.{i - 1}.block.{j}.",
        {
            "conv": lambda k: f"conv_{k - 1}",
            "norm": lambda k: f"batchnorm_{k - 1}",
            "excite": lambda k: f"se.fc{k}",
            "sparse": lambda k: f"meansparse_{k - 1}",
            "sparse_sum": "meansparse_2",
            "shortcut_conv": "shortcut",
        },
    )


def gowal_preact(layer: str) -> tuple[str, ...]:
    """Name a layer of a pre-activation ResNet as Gowal et al. do."""
    return _named(
        layer,
        {"conv_2d": "conv_2d", "norm": "batchnorm", "head": "logits"},
        lambda i, j: f"layer_{i - 1}.{j}.",
        {
            "conv": lambda k: f"conv_2d_{k}",
            "norm": lambda k: f"batchnorm_{k - 1}",
            "shortcut_conv": "shortcut",
        },
    )


def huang(layer: str) -> tuple[str, ...]:
    """Name a layer of a wide ResNet as Huang et al. do, in 2021 and in 2023."""
    return _named(
        layer,
        {"stem_conv": "stem_conv", "norm": ("bn1", "norm1"), "head": "fc"},
        lambda i, j: f"blocks.{i - 1}.layer.{j}.",
        {
            "conv": lambda k: f"conv{k}",
            "norm": lambda k: f"bn{k}",
            "shortcut_conv": ("convShortcut", "shortcut.0"),
        },
    )


def resnext(layer: str) -> tuple[str, ...]:
    """Name a layer of a ResNeXt as AugMix does."""
    return _named(
        layer,
        {"conv_1_3x3": "conv_1_3x3", "norm1": "bn_1", "head": "classifier"},
        lambda i, j: f"stage_{i}.{j}.",
        {
            "conv": lambda k: ("conv_reduce", "conv_conv", "conv_expand")[k - 1],
            "norm": lambda k: ("bn_reduce", "bn", "bn_expand")[k - 1],
            "shortcut_conv": "downsample.0",
            "shortcut_norm": "downsample.1",
        },
    )


def bit(layer: str) -> tuple[str, ...]:
    """Name a layer of a BiT ResNet as its authors do."""
    return _named(
        layer,
        {"conv1": "root.conv", "norm": "head.gn", "head": "head.conv"},
        lambda i, j: f"body.block{i}.unit{j + 1:02d}.",
        {"conv": lambda k: f"conv{k}", "norm": lambda k: f"gn{k}", "shortcut_conv": "downsample"},
    )


def peng(layer: str) -> tuple[str, ...]:
    """Name a layer of a network for large images as Peng et al. do."""
    return _named(
        layer,
        {"conv1": "stem.stem.stem.0", "norm1": "stem.stem.stem.1", "head": "fc"},
        lambda i, j: f"stages.stage{i}.stage{i}-block{j}.",
        {
            "conv": lambda k: f"F.{'abc'[k - 1]}.0",
            "norm": lambda k: f"F.{'abc'[k - 1]}.1",
            "excite": lambda k: f"F.se.fc{k}",
            "shortcut_conv": "proj.0",
            "shortcut_norm": "proj.1",
        },
    )


def mixing(layer: str) -> tuple[str, ...]:
    """Name a layer of the mixing network of adaptive smoothing as its authors do."""
    return _named(
        layer,
        {"conv1x1": "conv1x1", "head": "linear", "norm": "bn"},
        lambda i, j: f"layers.{i - 1}.{j}.",
        {"conv": lambda k: f"conv{k}", "norm": lambda k: f"bn{k}", "shortcut_conv": "shortcut.0"},
    )


def sequential(layer: str) -> tuple[str, ...]:
    """Name a layer of a small convolutional network by its place in a `nn.Sequential`, as Wong and Kolter do."""
    places = {"conv0": "0", "conv1": "2", "hidden": "5", "head": "7"}
    return (places[layer],) if layer in places else ()


def convnext(layer: str) -> tuple[str, ...]:
    """Name a layer of a ConvNeXt as timm does; MeanSparse as RobustBench puts it in."""
    if found := re.fullmatch(r"stage(\d+)_block(\d+)(?:/(.+))?", layer):
        names = {"fc1": "mlp.fc1", "fc2": "mlp.fc2", "sparse1": "mlp.act.0", "sparse_path": "drop_path.1"}
        part = names.get(found[3], found[3])
        return (f"stages.{int(found[1]) - 1}.blocks.{found[2]}" + (f".{part}" if part else ""),)
    if found := re.fullmatch(r"down(\d+)_(norm|conv)", layer):
        return (f"stages.{int(found[1]) - 1}.downsample.{('norm', 'conv').index(found[2])}",)
    return _stem(layer, "stem") or {"norm": ("head.norm",), "head": ("head.fc",)}.get(layer, ())


def convnext_v2(layer: str) -> tuple[str, ...]:
    """Name a layer of a ConvNeXt V2 as its authors do."""
    if found := re.fullmatch(r"stage(\d+)_block(\d+)/(.+)", layer):
        names = {"conv_dw": "dwconv", "fc1": "pwconv1", "fc2": "pwconv2", "response": "grn"}
        return (f"stages.{int(found[1]) - 1}.{found[2]}.{names.get(found[3], found[3])}",)
    if found := re.fullmatch(r"down(\d+)_(norm|conv)", layer):
        return (f"downsample_layers.{int(found[1]) - 1}.{('norm', 'conv').index(found[2])}",)
    outer = {"stem_conv0": "downsample_layers.0.0", "stem_norm0": "downsample_layers.0.1"}
    outer |= {"norm": "norm", "head": "head"}
    return (outer[layer],) if layer in outer else ()


def alexnet(layer: str) -> tuple[str, ...]:
    """Name a layer of an AlexNet as torchvision does: by its place."""
    places = {f"conv{i}": f"features.{place}" for i, place in enumerate((0, 3, 6, 8, 10))}
    places |= {"fc0": "classifier.1", "fc1": "classifier.4", "head": "classifier.6"}
    return (places[layer],) if layer in places else ()


def vit(layer: str) -> tuple[str, ...]:
    """Name a layer of a vision transformer as timm does."""
    if found := re.fullmatch(r"block(\d+)/(.+)", layer):
        names = {"qkv": "attn.qkv", "proj": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
        return (f"blocks.{found[1]}.{names.get(found[2], found[2])}",)
    outer = {"": ("",), "patches": ("patch_embed.proj",), "norm": ("norm",), "head": ("head",)}
    return _stem(layer, "patch_embed.proj") or outer.get(layer, ())


def xcit(layer: str) -> tuple[str, ...]:
    """Name a layer of an XCiT as timm does."""
    names = {"qkv": "attn.qkv", "conv1": "local_mp.conv1", "bn": "local_mp.bn", "conv2": "local_mp.conv2"}
    names |= {name: f"attn.{name}" for name in ("q", "k", "v", "proj")}
    names |= {name: f"mlp.{name}" for name in ("fc1", "fc2")}
    if found := re.fullmatch(r"(block|class)(\d+)(?:/(.+))?", layer):
        at = f"{'blocks' if found[1] == 'block' else 'cls_attn_blocks'}.{found[2]}"
        return (f"{at}.{names.get(found[3], found[3])}",) if found[3] else (at, f"{at}.attn")
    if found := re.fullmatch(r"stem_(conv|norm)(\d+)", layer):
        return (f"patch_embed.proj.{2 * int(found[2])}.{('conv', 'norm').index(found[1])}",)
    outer = {
        "": ("",),
        "place": ("pos_embed.token_projection", "pos_embeder.token_projection"),
        "norm": ("norm",),
        "head": ("head",),
    }
    return outer.get(layer, ())


def swin(layer: str) -> tuple[str, ...]:
    """Name a layer of a Swin transformer as timm does."""
    return _swin(layer, down=1, head="head.fc")


def swin_before(layer: str) -> tuple[str, ...]:
    """Name a layer of a Swin transformer as its authors do, who join patches at the end of a group."""
    return _swin(layer, down=2, head="head")


def _swin(layer: str, *, down: int, head: str) -> tuple[str, ...]:
    names = {"qkv": "attn.qkv", "proj": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
    names |= {"sparse1": "mlp.meansparse1", "sparse2": "mlp.meansparse2"}
    names |= {"sparse_attention": "meansparse1", "sparse_sum": "meansparse2"}
    if found := re.fullmatch(r"stage(\d+)_block(\d+)(?:/(.+))?", layer):
        part = names.get(found[3], found[3]) if found[3] else "attn"  # of which the table of positions is
        return (f"layers.{int(found[1]) - 1}.blocks.{found[2]}.{part}",)
    if found := re.fullmatch(r"down(\d+)_(norm|reduction)", layer):
        return (f"layers.{int(found[1]) - down}.downsample.{found[2]}",)
    outer = {"patches": "patch_embed.proj", "patches_norm": "patch_embed.norm", "norm": "norm", "head": head}
    return (outer[layer],) if layer in outer else ()


def _stem(layer: str, place: str) -> tuple[str, ...]:
    """Name a layer of `layers.conv_stem`: convolution, normalisation and activation in turns."""
    found = re.fullmatch(r"stem_(conv|norm)(\d+)", layer)
    if not found:
        return ()
    number = 3 * int(found[2]) + (found[1] == "norm")
    return f"{place}.stem.{number}", f"{place}.{number}"


LAYOUTS: tuple[Layout, ...] = (
    common,
    from_zero,
    trades,
    dense,
    dense_imagenet,
    gowal,
    gowal_preact,
    huang,
    resnext,
    bit,
    peng,
    mixing,
    alexnet,
    convnext,
    convnext_v2,
    vit,
    xcit,
    swin,
    swin_before,
    sequential,
)


def _named(
    layer: str, outer: Mapping[str, Any], block: Callable[[int, int], str], inner: Mapping[str, Any]
) -> tuple[str, ...]:
    place, _, part = layer.rpartition("/")
    if not place:
        names, prefix = outer.get(part, ()), ""
    else:
        at = re.fullmatch(r"stage(\d+)_(?:block|layer)(\d+)", place)
        kind = re.fullmatch(r"([a-z]+)(\d+)", part)
        found: Any = inner.get(kind[1] if kind else part, ())
        if callable(found) != bool(kind):  # a part of another layout
            found = ()
        names: Any = found(int(kind[2])) if kind and callable(found) else found
        names, prefix = (names, block(int(at[1]), int(at[2]))) if at else ((), "")
    return tuple(prefix + name for name in ((names,) if isinstance(names, str) else names))
