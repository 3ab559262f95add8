"""Recognise an architecture by the names and shapes of the tensors of a checkpoint.

Several networks may have tensors of the same names and shapes; then there are several names, and what was computed in
training decides between them: see `running_statistics`.
"""

import re
from collections.abc import Callable, Mapping

Shapes = Mapping[str, tuple[int, ...]]
HEADS = (
    "head.conv.weight",
    "fc.weight",
    "linear.weight",
    "logits.weight",
    "classifier.weight",
    "head.weight",
    "classifier.6.weight",
    "7.weight",
)


# From the accurate and the robust network of a mixture to its name.
PAIRS = {
    ("bit_r152x2", "rawideresnet70_16"): "mixednuts_cifar10",
    ("bit_r152x2", "gowal70_16"): "mixednuts_cifar100",
    ("convnext_v2_l", "swin_l"): "mixednuts_imagenet",
}
SMOOTHED = {
    10: ("adaptive_smoothing_cifar10_edm",),
    100: ("adaptive_smoothing_cifar100_edm", "adaptive_smoothing_cifar100_trades"),
}


def recognised(shapes: Shapes) -> tuple[str, ...]:
    """Name the architectures that tensors may be of, as in `architectures`; none if they are of none that is known.

    Args:
      shapes: of the tensors by name, as `weights.load` names them, without constants of normalisation.
    """
    if members := {m[1] for m in (re.match(r"models\.(\d+)\.", name) for name in shapes) if m}:
        first, second = (recognised(_member(shapes, number)) for number in "01")
        if mixture := _mixture(shapes, first, second):
            return mixture
        return tuple(f"ensemble{len(members)}_{name}" for name in first)
    return next((names for rule in RULES if (names := rule(shapes))), ())


def described(shapes: Shapes) -> str:
    """Say in words what tensors may be of, with the number of classes."""
    names = recognised(shapes)
    if not names:
        return "no network that is known here"
    heads = [next((s for n, s in shapes.items() if n.endswith(head)), None) for head in HEADS]
    classes = next((shape[0] for shape in heads if shape), None)
    return " or ".join(names) + ("" if classes is None else f", with {classes} classes")


# --- rules: from shapes to names, or to nothing -------------------------------------------------------


def _blocks(shapes: Shapes, pattern: str) -> list[int]:
    """Count the blocks of each group; a pattern finds the numbers of group and block in a name."""
    found = {(int(m[1]), int(m[2])) for m in (re.match(pattern, name) for name in shapes) if m}
    groups = sorted({i for i, _ in found})
    return [sum(i == group for i, _ in found) for group in groups]


def _member(shapes: Shapes, number: str) -> Shapes:
    prefix = f"models.{number}."
    return {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}


def _mixture(shapes: Shapes, first: tuple[str, ...], second: tuple[str, ...]) -> tuple[str, ...]:
    """Name the mixtures of two networks; the constants that tell some apart are no tensors' shapes."""
    pair = next((pair for pair in PAIRS if pair[0] in first and pair[1] in second), None)
    if pair and "models.2.conv1x1.weight" not in shapes:
        return (PAIRS[pair],)
    return SMOOTHED.get(shapes["models.0.head.conv.weight"][0], ()) if pair and "gowal" in pair[1] else ()


def _has(shapes: Shapes, ending: str) -> bool:
    return any(name.endswith(ending) for name in shapes)


def _wide(shapes: Shapes, pattern: str, last: str) -> str:
    """Write depth and width of three equal groups of blocks as "28_10", or nothing if they are something else."""
    depths = _blocks(shapes, pattern)
    if len(depths) != 3 or len(set(depths)) != 1 or last not in shapes or shapes[last][0] % 64:
        return ""
    return f"{6 * depths[0] + 4}_{shapes[last][0] // 64}"


def _dense(shapes: Shapes) -> tuple[str, ...]:
    depths = _blocks(shapes, r"block(\d+)\.layer\.(\d+)\.conv2")
    if "trans1.conv1.weight" not in shapes or len(set(depths)) != 1:
        return ()
    growth = shapes["block1.layer.0.conv2.weight"][0]
    return (f"densenet{6 * depths[0] + 4}" + (f"_{growth}" if growth != 12 else ""),)


def _dense_imagenet(shapes: Shapes) -> tuple[str, ...]:
    depths = _blocks(shapes, r"features\.denseblock(\d+)\.denselayer(\d+)\.conv2")
    growth = shapes.get("features.denseblock1.denselayer1.conv2.weight", (0,))[0]
    return ("densenet121_imagenet",) if (depths, growth) == ([6, 12, 24, 16], 32) else ()


def _trades(shapes: Shapes) -> tuple[str, ...]:
    sizes = _wide(shapes, r"block(\d+)\.layer\.(\d+)\.", "bn1.weight")
    if not sizes:
        return ()
    if "activation.alpha" in shapes:
        return (f"wideresnet{sizes}_pssilu",)
    if "fc.bias" not in shapes:
        return (f"wideresnet{sizes}_cosine",)
    return f"wideresnet{sizes}", f"wideresnet{sizes}_standardised"


def _gowal(shapes: Shapes) -> tuple[str, ...]:
    groups = r"layer\.(\d+)\.block\.(\d+)\."
    sparse = "_sparse" if "meansparse_end.threshold" in shapes else ""
    if _has(shapes, ".se.fc1.weight"):
        return (f"rawideresnet70_16{sparse}",) if _blocks(shapes, groups) == [30, 31, 10] else ()
    sizes = _wide(shapes, groups, "batchnorm.weight")
    return (f"gowal{sizes}{sparse}",) if sizes else ()


def _gowal_preact(shapes: Shapes) -> tuple[str, ...]:
    known = "conv_2d.weight" in shapes and _blocks(shapes, r"layer_(\d+)\.(\d+)\.") == [2, 2, 2, 2]
    return ("preact_resnet18_gowal",) if known else ()


def _huang(shapes: Shapes) -> tuple[str, ...]:
    depths = _blocks(shapes, r"blocks\.(\d+)\.layer\.(\d+)\.")
    by_depths: dict[tuple[int, ...], str] = {(5, 5, 5): "wideresnet34_r", (27, 28, 13): "wideresnet_a4"}
    return (by_depths[tuple(depths)],) if tuple(depths) in by_depths else ()


def _resnext(shapes: Shapes) -> tuple[str, ...]:
    fits = shapes.get("stage_1.0.conv_conv.weight") == (128, 32, 3, 3)
    return ("resnext29_4x32",) if fits and _blocks(shapes, r"stage_(\d+)\.(\d+)\.") == [3, 3, 3] else ()


def _bit(shapes: Shapes) -> tuple[str, ...]:
    fits = _blocks(shapes, r"body\.block(\d+)\.unit(\d+)\.conv1") == [3, 8, 36, 3]
    return ("bit_r152x2",) if fits and shapes.get("root.conv.weight", (0,))[0] == 128 else ()


def _convnext_v2(shapes: Shapes) -> tuple[str, ...]:
    fits = _blocks(shapes, r"stages\.(\d+)\.(\d+)\.grn") == [3, 3, 27, 3]
    return ("convnext_v2_l",) if fits and shapes.get("norm.weight") == (1536,) else ()


def _sequential(shapes: Shapes) -> tuple[str, ...]:
    known = {f"{place}.weight" for place in (0, 2, 5, 7)} <= set(shapes) and len(shapes["0.weight"]) == 4
    return ("convnet_small",) if known else ()


def _residual(shapes: Shapes) -> tuple[str, ...]:
    depths, stem = _blocks(shapes, r"layer(\d+)\.(\d+)\."), shapes.get("conv1.weight", ())
    if len(depths) != 4 or len(stem) != 4 or not _has(shapes, ".running_var"):
        return ()
    bottleneck, affine = "layer1.0.conv3.weight" in shapes, "layer1.0.bn1.weight" in shapes
    if "layer1.0.bn0.weight" in shapes:
        return ("preact_resnet50_chen",) if depths == [3, 4, 6, 3] and bottleneck else ()
    if depths == [2, 2, 2, 2] and not bottleneck:
        if not affine:
            return ("preact_resnet18_affine_free",)
        if not any(re.search(r"(shortcut|downsample)\.1\.weight$", name) for name in shapes):
            return (
                ("preact_resnet18_rice",)
                if "bn.weight" in shapes
                else ("preact_resnet18", "preact_resnet18_wong")
            )
    if "bn1.weight" not in shapes:
        return ()
    large = "_imagenet" if stem[2] == 7 else ""
    by_depths: dict[tuple[tuple[int, ...], bool], str] = {
        ((2, 2, 2, 2), False): "resnet18",
        ((3, 4, 6, 3), False): "resnet34",
        ((3, 4, 6, 3), True): "resnet50",
    }
    name = by_depths.get((tuple(depths), bottleneck))
    if name is None:
        return ()
    if bottleneck and shapes["layer1.0.conv1.weight"][0] == 128:
        return (f"wideresnet50_2{large}",) if large else ()
    width = f"_{stem[0]}" if stem[0] != 64 and name == "resnet18" and not large else ""
    return (f"{name}{width}{large}",)


def _convnext(shapes: Shapes) -> tuple[str, ...]:
    last, depths = shapes.get("head.norm.weight", (0,))[0], _blocks(shapes, r"stages\.(\d+)\.blocks\.(\d+)\.")
    if "stages.0.blocks.0.conv_dw.weight" not in shapes:
        return ()
    sizes: dict[tuple[int, tuple[int, ...]], str] = {
        (768, (3, 3, 9, 3)): "t",
        (768, (3, 3, 27, 3)): "s",
        (1024, (3, 3, 27, 3)): "b",
        (1536, (3, 3, 27, 3)): "l",
    }
    size = sizes.get((last, tuple(depths)))
    stem = "_convstem" if "stem.stem.0.weight" in shapes else ""
    sparse = "_sparse" if "stages.0.blocks.0.drop_path.1.threshold" in shapes else ""
    return (f"convnext_{size}{stem}{sparse}",) if size and not (stem and sparse) else ()


def _vit(shapes: Shapes) -> tuple[str, ...]:
    depth = len({m[1] for m in (re.match(r"blocks\.(\d+)\.attn\.qkv\.weight", name) for name in shapes) if m})
    size = {384: "s", 768: "b"}.get(shapes.get("norm.weight", (0,))[0])
    if depth != 12 or not size or "pos_embed" not in shapes or "blocks.0.attn.temperature" in shapes:
        return ()
    return (f"vit_{size}" + ("_convstem" if "patch_embed.proj.stem.0.weight" in shapes else ""),)


def _xcit(shapes: Shapes) -> tuple[str, ...]:
    """Name both sizes of patches: they are strides, which weights do not tell."""
    size = {384: "s", 512: "m", 768: "l"}.get(shapes.get("norm.weight", (0,))[0])
    if not size or "blocks.11.attn.temperature" not in shapes or "blocks.12.attn.temperature" in shapes:
        return ()
    return f"xcit_{size}12", f"xcit_{size}12_cifar"


def _swin(shapes: Shapes) -> tuple[str, ...]:
    """Name both of Swin-B where an older layout holds either: a number that normalisations add is not told."""
    table = shapes.get("layers.0.blocks.0.attn.relative_position_bias_table", (0,))
    size = {128: "b", 192: "l"}.get(shapes.get("patch_embed.proj.weight", (0,))[0])
    if not size or _blocks(shapes, r"layers\.(\d+)\.blocks\.(\d+)\.") != [2, 2, 18, 2]:
        return ()
    sparse, older = _has(shapes, ".threshold"), "head.weight" in shapes
    if table[0] == 27**2 and size == "l" and older and not sparse:
        return ("swin_l_mimir",)
    if table[0] != 13**2 or (sparse and size == "b"):
        return ()
    if sparse:
        return ("swin_l_sparse",)
    return ("swin_b", "swin_b_mimir") if size == "b" and older else (f"swin_{size}",)


def _alexnet(shapes: Shapes) -> tuple[str, ...]:
    fits = shapes.get("features.0.weight") == (64, 3, 11, 11) and "classifier.6.weight" in shapes
    return ("alexnet",) if fits else ()


def _peng(shapes: Shapes) -> tuple[str, ...]:
    depths = _blocks(shapes, r"stages\.stage(\d+)\.stage\d+-block(\d+)\.F\.se\.")
    return ("rawideresnet101_2_imagenet",) if depths == [7, 11, 18, 1] else ()


RULES: tuple[Callable[[Shapes], tuple[str, ...]], ...] = (
    _dense,
    _dense_imagenet,
    _trades,
    _gowal,
    _gowal_preact,
    _huang,
    _resnext,
    _bit,
    _convnext,
    _convnext_v2,
    _vit,
    _xcit,
    _swin,
    _alexnet,
    _peng,
    _sequential,
    _residual,
)
