"""How public PyTorch code names the layers of networks, and what a file's names say about it."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

# Around the network proper: parallel and compiled modules, wrappers that normalise (then it is the second of two).
WRAPPERS = ("module.", "_orig_mod.", "model.", "net.", "network.", "backbone.", "1.")
# Left behind by training code and never read by the network that the file is of.
DEAD = (
    r"(^|\.)num_batches_tracked$",  # BatchNorm's count of updates
    r"^n_averaged$",  # weight averaging's
    r"^sub_block1\.",  # TRADES: a group of blocks that is built but not called
    r"^model_preact_hl1\.",  # aliases of the first layers
    r"^attacker\.",  # the `robustness` library: the same network once more, within its attack
)
STORED = r"^(?:(?:normalize|normalizer|normalization|normalise|normaliser|normalisation|0)\.)?(?:new_)?"
MEAN, STD = re.compile(STORED + r"(?:mean|mu)$"), re.compile(STORED + r"(?:std|sigma)$")


def bare(names: Iterable[str]) -> dict[str, str]:
    """Strip wrappers off the names of a state dict and drop what is not of the network.

    Returns:
      From bare to full name.
    Raises:
      ValueError: if two tensors have the same bare name.
    """
    found: dict[str, str] = {}
    for full in names:
        name = full
        while wrapper := next((w for w in WRAPPERS if name.startswith(w)), None):
            name = name[len(wrapper) :]
        if any(re.search(pattern, name) for pattern in DEAD):
            continue
        if name in found:
            raise ValueError(f"{found[name]} and {full} are both {name} without their wrappers")
        found[name] = full
    return found


# --- from a layer of ours to what it may be called ----------------------------------------------------

Layout = Callable[[str], tuple[str, ...]]


def common(layer: str) -> tuple[str, ...]:
    """Name a layer as pytorch-cifar and torchvision do."""
    return _named(
        layer,
        {"conv1": "conv1", "norm1": "bn1", "norm": "bn", "head": ("linear", "fc")},
        lambda i, j: f"layer{i}.{j}.",
        {
            "conv": lambda k: f"conv{k}",
            "norm": lambda k: f"bn{k}",
            "shortcut_conv": ("shortcut.0", "downsample.0"),
            "shortcut_norm": ("shortcut.1", "downsample.1"),
        },
    )


def trades(layer: str) -> tuple[str, ...]:
    """Name a layer of a wide ResNet as TRADES, MART and many after them do."""
    return _named(
        layer,
        {"conv1": "conv1", "norm": "bn1", "head": ("fc", "linear")},
        lambda i, j: f"block{i}.layer.{j}.",
        {"conv": lambda k: f"conv{k}", "norm": lambda k: f"bn{k}", "shortcut_conv": "convShortcut"},
    )


def gowal(layer: str) -> tuple[str, ...]:
    """Name a layer of a wide ResNet as Gowal et al. and many after them do."""
    return _named(
        layer,
        {"init_conv": "init_conv", "norm": "batchnorm", "head": "logits"},
        lambda i, j: f"layer.{i - 1}.block.{j}.",
        {
            "conv": lambda k: f"conv_{k - 1}",
            "norm": lambda k: f"batchnorm_{k - 1}",
            "shortcut_conv": "shortcut",
        },
    )


def sequential(layer: str) -> tuple[str, ...]:
    """Name a layer of a small convolutional network by its place in a `nn.Sequential`, as Wong and Kolter do."""
    places = {"conv0": "0", "conv1": "2", "hidden": "5", "head": "7"}
    return (places[layer],) if layer in places else ()


LAYOUTS: tuple[Layout, ...] = (common, trades, gowal, sequential)


def _named(
    layer: str, outer: Mapping[str, Any], block: Callable[[int, int], str], inner: Mapping[str, Any]
) -> tuple[str, ...]:
    place, _, part = layer.rpartition("/")
    if not place:
        names, prefix = outer.get(part, ()), ""
    else:
        at = re.fullmatch(r"stage(\d+)_block(\d+)", place)
        kind = re.fullmatch(r"(conv|norm)(\d+)", part)
        names = inner[kind[1]](int(kind[2])) if kind else inner.get(part, ())
        names, prefix = (names, block(int(at[1]), int(at[2]))) if at else ((), "")
    return tuple(prefix + name for name in ((names,) if isinstance(names, str) else names))


# --- what a file seems to be --------------------------------------------------------------------------


def described(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Say in words what network the shapes of a state dict are of, as far as they tell."""
    classes = next((shapes[n][0] for n in HEADS if len(shapes.get(n, ())) == 2), None)
    tail = "" if classes is None else f" with {classes} classes"
    for pattern, stem, final, name in WIDE:
        depths = _blocks(shapes, pattern)
        if depths and stem in shapes and final in shapes:
            width = shapes[final][0] // 64
            return f"{name} of depth {6 * depths[0] + 4} and width {width}{tail}"
    if {f"{place}.weight" for place in (0, 2, 5, 7)} <= set(shapes) and len(shapes["0.weight"]) == 4:
        widths, hidden = [shapes[f"{place}.weight"][0] for place in (0, 2)], shapes["5.weight"][0]
        return f"convnet_small of widths {widths} and {hidden} hidden units, with {shapes['7.weight'][0]} classes"
    depths = _blocks(shapes, r"layer(\d+)\.(\d+)\.")
    if not depths or len(shapes.get("conv1.weight", ())) != 4:
        return "no network that is known here"
    large = shapes["conv1.weight"][2] == 7
    if not any(name.endswith(".running_var") for name in shapes):
        return (
            f"a residual network without BatchNorm, in blocks {depths}{tail}, which no architecture here is"
        )
    if not any(re.search(r"(shortcut|downsample)\.1\.weight$", name) for name in shapes):
        kind = "preact_resnet18_rice" if "bn.weight" in shapes else "preact_resnet18 or preact_resnet18_wong"
        return f"{kind}, in blocks {depths}{tail}"
    bottleneck = "layer1.0.conv3.weight" in shapes
    layers = sum(depths) * (3 if bottleneck else 2) + 2
    return f"resnet{layers}{'_imagenet' if large else ''}{tail}"


HEADS = ("fc.weight", "linear.weight", "logits.weight")
WIDE = (
    (r"block(\d+)\.layer\.(\d+)\.", "conv1.weight", "bn1.weight", "wideresnet"),
    (r"layer\.(\d+)\.block\.(\d+)\.", "init_conv.weight", "batchnorm.weight", "wideresnet_gowal"),
)


def _blocks(shapes: Mapping[str, Any], pattern: str) -> list[int]:
    found = {(int(m[1]), int(m[2])) for m in (re.match(pattern, name) for name in shapes) if m}
    groups = sorted({i for i, _ in found})
    return [sum(i == group for i, _ in found) for group in groups]
