"""Networks of RobustBench's model zoo, at random weights: its own classes and ours give the same logits."""

import contextlib
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustjax.models import architectures, recognition, weights
from robustjax.models.alexnet import alexnet
from robustjax.models.bit import bit_resnet
from robustjax.models.convnext import convnext
from robustjax.models.convnext_v2 import convnext_v2
from robustjax.models.densenet_imagenet import densenet121_imagenet
from robustjax.models.mixednuts import mixednuts
from robustjax.models.published_mixtures import MIXINGS, WEIGHTINGS, smoothing_cifar
from robustjax.models.published_wide import rawideresnet, wideresnet34_r, wideresnet_a4, wideresnet_gowal
from robustjax.models.rawideresnet_imagenet import rawideresnet_imagenet
from robustjax.models.resnext import resnext
from robustjax.models.swin import swin
from robustjax.models.vit import vit
from robustjax.models.xcit import xcit

pytestmark = pytest.mark.oracle
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)
SIDE = 32  # what their last pooling asks for


def zoo(name):
    pytest.importorskip("torch")
    pytest.importorskip("timm")
    import robustbench_zoo

    return robustbench_zoo.architectures(name)


def silu(module, *shape, **settings):
    from torch import nn

    net = zoo(f"architectures.{module[0]}")
    return getattr(net, module[1])(*shape, activation_fn=nn.SiLU, mean=MEAN, std=STD, **settings)


def rawrn(module):
    from torch import nn

    return zoo(f"architectures.{module}").NormalizedWideResNet(
        MEAN, STD, 8, [1, 2, 1], [16, 24, 32], [1, 1, 1], nn.SiLU, 0.25, nn.ReLU, 2, num_classes=7
    )


def resnet(name, *args, **settings):
    module = zoo("architectures.resnet")
    block = getattr(module, name)
    return (module.PreActResNet if name.startswith("PreAct") else module.ResNet)(block, *args, **settings)


SMALL = {  # ours at the size of theirs, where the name of an architecture does not say it
    "r": functools.partial(wideresnet34_r, widths=(24, 40, 32), depths=(1, 2, 1)),
    "a4": functools.partial(wideresnet_a4, widths=(24, 40, 32), depths=(1, 2, 1)),
    "ra": functools.partial(rawideresnet, stem_width=8, widths=(16, 24, 32), depths=(1, 2, 1)),
    "ra_sparse": functools.partial(
        rawideresnet, stem_width=8, widths=(16, 24, 32), depths=(1, 2, 1), sparse=True
    ),
    "resnext": functools.partial(resnext, depth=11),
}
DEEP = (2, 2, 2, 2)
# name -> (architecture, theirs with 7 classes, whether it normalises by (0, 1): nothing in the file and in the code)
CASES = {
    "gowal": ("gowal10_2", lambda: silu(("dm_wide_resnet", "DMWideResNet"), 7, 10, 2)),
    "gowal preact": ("preact_resnet18_gowal", lambda: silu(("dm_wide_resnet", "DMPreActResNet"), 7, 18, 0)),
    "wong": ("preact_resnet18_wong", lambda: resnet("PreActBlock", DEEP, 7)),
    "rice": ("preact_resnet18_rice", lambda: resnet("PreActBlockV2", DEEP, 7, bn_before_fc=True)),
    "rice, cifar100": (
        "preact_resnet18_rice",
        lambda: resnet("PreActBlock", DEEP, 7, bn_before_fc=True, out_shortcut=True),
    ),
    "chen": ("preact_resnet50_chen", lambda: resnet("BottleneckChen2020AdversarialNet", (3, 4, 6, 3), 7)),
    "card": (
        "resnet18_8",
        lambda: zoo("architectures.CARD_resnet").LRR_ResNet(width=8, num_classes=7),
    ),
    "card, binary": (
        "preact_resnet18_affine_free",
        lambda: zoo("architectures.CARD_resnet").WidePreActResNet(num_classes=7),
    ),
    "pssilu": (
        "wideresnet10_1_pssilu",
        lambda: (
            lambda module: module.PAF_WideResNet(module.PSSiLU(), depth=10, num_classes=7, widen_factor=1)
        )(zoo("architectures.paf_wide_resnet")),
    ),
    "huang 2021": (
        "r",
        lambda: zoo("architectures.robust_wide_resnet").RobustWideResNet(7, [16, 24, 40, 32], [1, 2, 1]),
    ),
    "huang 2022": (
        "a4",
        lambda: zoo("architectures.robust_resnet").PreActResNet(
            7, (16, 24, 40, 32), (1, 2, 1), activations=("SiLU",) * 3, pre_process=True
        ),
    ),
    "peng": ("ra", lambda: rawrn("robustarch_wide_resnet")),
    "amini, ra": ("ra_sparse", lambda: rawrn("Meansparse_ra_wrn_70_16")),
    "amini, 70": (
        "gowal10_1_sparse",
        lambda: silu(("Meansparse_wrn_70_16", "DMWideResNet"), 7, 10, 1),
    ),
    "amini, 94": (
        "gowal10_1_sparse",
        lambda: silu(("Meansparse_wrn_94_16", "MeanSparse_DMWideResNet"), 7, 10, 1),
    ),
    "augmix": (
        "resnext",
        lambda: zoo("cifar10").Hendrycks2020AugMixResNeXtNet(depth=11, num_classes=7),
    ),
}
RAW = {"wong", "rice", "rice, cifar100", "chen", "card", "card, binary", "pssilu", "huang 2021"}
UNNAMED = {"r", "a4", "ra", "ra_sparse", "resnext"}


def compared(
    tmp_path,
    theirs,
    architecture,
    *,
    shape=(SIDE, SIDE, 3),
    classes=7,
    log=False,
    names=str,
    jumps=False,
    **constants,
):
    """Save their weights, import them, and compare logits of some images; return the tensors.

    Where the network `jumps`, at the thresholds of sparse activations, one rounding may move the logits of an image:
    most images must agree. In bfloat16 ours must be about as near to the logits in float32 as theirs is.
    """
    import robustbench_zoo
    import torch

    net = robustbench_zoo.drawn(theirs)
    x = np.random.default_rng(0).uniform(size=(5 if jumps else 2, *shape)).astype(np.float32)
    with torch.no_grad():
        expected = net(torch.tensor(x.transpose(0, 3, 1, 2).copy())).numpy()
    path = tmp_path / "x.pt"
    torch.save({"state_dict": {f"module.{names(name)}": v for name, v in net.state_dict().items()}}, path)
    ours = weights.imported(path, architecture=architecture, classes=classes, shape=shape, **constants)
    actual = np.asarray(jax.jit(ours.model.apply)(ours.params, ours.state, x)[0])
    expected = np.log(expected) if log else expected
    scale = np.abs(expected).max()
    assert np.abs(expected[0] - expected[1]).max() > 1e-3 * scale  # the images matter
    if jumps:
        agree = np.abs(actual - expected).max(axis=1) < 1e-4 * scale
        assert agree.mean() > 0.5, np.abs(actual - expected).max(axis=1)
    else:
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4 * scale)
        half = weights.imported(
            path, architecture=architecture, classes=classes, shape=shape, dtype=jnp.bfloat16, **constants
        )
        rounded = np.asarray(jax.jit(half.model.apply)(half.params, half.state, x)[0], np.float32)
        low = expected
        with torch.no_grad(), contextlib.suppress(RuntimeError):  # of those whose code is for float32 alone
            low = net.bfloat16()(torch.tensor(x.transpose(0, 3, 1, 2).copy()).bfloat16()).float().numpy()
            low = np.log(low) if log else low
        off, theirs_off = (np.abs(z - expected).max() / scale for z in (rounded, low))
        assert off < max(2 * theirs_off, 0.03), (off, theirs_off)
    return weights.load(path)


def restored(tmp_path, net):
    """Load what `compared` saved into a network that it has rounded since."""
    import torch

    exact = torch.load(tmp_path / "x.pt")["state_dict"]
    net.float().load_state_dict({name.removeprefix("module."): value for name, value in exact.items()})


@pytest.mark.parametrize("case", list(CASES))
def test_logits_are_those_of_robustbench(tmp_path, monkeypatch, case):
    architecture, build = CASES[case]
    pytest.importorskip("torch")
    for name, factory in SMALL.items():
        monkeypatch.setitem(architectures.ARCHITECTURES, name, factory)
    theirs = build()
    stored = any(name.endswith(("mu", "sigma")) for name in theirs.state_dict())
    given = (0.0,) * 3, (1.0,) * 3
    if case not in RAW:
        given = (None, None) if stored else (MEAN, STD)
    tensors = compared(tmp_path, theirs, architecture, mean=given[0], std=given[1])
    if architecture not in UNNAMED:
        _, tensors = weights.constants(tensors)
        shapes = {name: value.shape for name, value in tensors.items()}
        assert architecture in recognition.recognised(shapes), recognition.described(shapes)


def test_each_image_is_standardised_by_itself(tmp_path):
    compared(tmp_path, zoo("cifar10").Ding2020MMANet(10, 1), "wideresnet10_1_standardised", classes=10)


def test_logits_may_be_cosines(tmp_path):
    module = zoo("architectures.boosting_wide_resnet")
    compared(tmp_path, module.BoostingWideResNet(10, 1), "wideresnet10_1_cosine", classes=10)


def test_ensembles_average_probabilities(tmp_path):
    deck = zoo("cifar10").Diffenderfer2021CARD_Deck(width=4)
    compared(tmp_path, deck, "ensemble6_resnet18_4", classes=10, log=True)


def test_the_wide_resnet_of_torchvision(tmp_path):
    torchvision = pytest.importorskip("torchvision")
    zoo("imagenet")
    net = torchvision.models.wide_resnet50_2(num_classes=7)
    given = dict(mean=(0,) * 3, std=(1,) * 3)
    compared(tmp_path, net, "wideresnet50_2_imagenet", shape=(64, 64, 3), **given)


def test_the_large_densenet_of_torchvision(tmp_path, monkeypatch):
    torchvision = pytest.importorskip("torchvision")
    zoo("imagenet")
    depths, growth = (2, 3, 2, 1), 8
    factory = functools.partial(densenet121_imagenet, depths=depths, growth=growth)
    monkeypatch.setitem(architectures.ARCHITECTURES, "small", factory)
    net = torchvision.models.DenseNet(growth, depths, 2 * growth, num_classes=7)
    compared(tmp_path, net, "small", shape=(64, 64, 3), mean=(0,) * 3, std=(1,) * 3)


def convnext_like(stem=None, sparse=False):
    """A ConvNeXt of timm with two blocks in each group, with the stem and the sparsity of RobustBench."""
    stems = zoo("architectures.convstem_models")
    from timm.models.convnext import ConvNeXt

    net = ConvNeXt(depths=(2, 1, 1, 1), dims=(96, 16, 24, 32), num_classes=7)
    if stem:
        net.stem = getattr(stems, stem[0])(*stem[1:])
    return net


@pytest.mark.parametrize("stem", [None, ("ConvBlock1", 48, 8), ("ConvBlock3", 48)])
def test_convnext(tmp_path, monkeypatch, stem):
    widths = {"ConvBlock1": (48, 96), "ConvBlock3": (48, 72, 96)}[stem[0]] if stem else ()
    factory = functools.partial(convnext, widths=(96, 16, 24, 32), depths=(2, 1, 1, 1), stem=widths)
    monkeypatch.setitem(architectures.ARCHITECTURES, "small", factory)
    compared(tmp_path, convnext_like(stem), "small", shape=(64, 64, 3), mean=(0,) * 3, std=(1,) * 3)


def test_convnext_with_sparse_activations(tmp_path, monkeypatch):
    """RobustBench knows the channels of ConvNeXt-L, so the widths are those."""
    sparse = zoo("architectures.sparsified_model")
    from timm.models.convnext import ConvNeXt

    widths = (192, 384, 768, 1536)
    factory = functools.partial(convnext, widths=widths, depths=(1, 1, 1, 1), sparse=True)
    monkeypatch.setitem(architectures.ARCHITECTURES, "small", factory)
    net = ConvNeXt(depths=(1, 1, 1, 1), dims=widths, num_classes=7)
    sparse.add_custom_layer_imagenet(net, sparse.MeanSparse_imagenet)
    compared(tmp_path, net, "small", shape=(64, 64, 3), jumps=True, mean=(0,) * 3, std=(1,) * 3)


@pytest.mark.parametrize("stem", [False, True])
def test_vision_transformers(tmp_path, monkeypatch, stem):
    stems = zoo("architectures.convstem_models")
    from timm.models.vision_transformer import VisionTransformer

    net = VisionTransformer(img_size=64, patch_size=16, embed_dim=768, depth=3, num_heads=12, num_classes=7)
    if stem:
        net.patch_embed.proj = stems.ConvBlock(48, end_siz=16, fin_dim=None)
    factory = functools.partial(vit, width=768, depth=3, heads=12, stem=stem)
    monkeypatch.setitem(architectures.ARCHITECTURES, "small", factory)
    compared(tmp_path, net, "small", shape=(64, 64, 3), mean=(0,) * 3, std=(1,) * 3)


@pytest.mark.parametrize("patch", [4, 16])
def test_xcit(tmp_path, monkeypatch, patch):
    module = zoo("architectures.xcit")
    from timm.models.xcit import Xcit

    net = Xcit(patch_size=16, embed_dim=32, depth=3, num_heads=4, eta=1.0, tokens_norm=True, num_classes=7)
    net = module.adapt_model_patches(net, 4) if patch == 4 else net
    monkeypatch.setitem(
        architectures.ARCHITECTURES, "small", functools.partial(xcit, width=32, depth=3, heads=4, patch=patch)
    )
    side = 32 if patch == 4 else 64
    compared(tmp_path, net, "small", shape=(side, side, 3), mean=(0,) * 3, std=(1,) * 3)


@pytest.mark.parametrize("before", [False, True])
def test_swin(tmp_path, monkeypatch, before):
    """Windows of 2 pixels on 64: shifted ones in the first three groups; and the names of the authors' own files."""
    zoo("imagenet")
    from timm.models.swin_transformer import SwinTransformer

    depths, heads = (2, 2, 2, 1), (2, 4, 4, 4)
    net = SwinTransformer(64, 4, 3, 7, embed_dim=16, depths=depths, num_heads=heads, window_size=2)
    factory = functools.partial(swin, width=16, depths=depths, heads=heads, window=2)
    monkeypatch.setitem(architectures.ARCHITECTURES, "small", factory)

    def renamed(name):
        name = re.sub(r"layers\.(\d)\.downsample", lambda m: f"layers.{int(m[1]) - 1}.downsample", name)
        return name.replace("head.fc.", "head.")

    names = renamed if before else lambda name: name
    given = dict(mean=(0,) * 3, std=(1,) * 3)
    compared(tmp_path, net, "small", shape=(64, 64, 3), names=names, **given)


def test_swin_with_sparse_activations(tmp_path, monkeypatch):
    module = zoo("architectures.Meansparse_swin_L")
    depths, heads = (2, 2, 2, 1), (2, 4, 4, 4)
    net = module.SwinTransformer(64, 4, 3, 7, embed_dim=16, depths=depths, num_heads=heads, window_size=2)
    factory = functools.partial(swin, width=16, depths=depths, heads=heads, window=2, sparse=True)
    monkeypatch.setitem(architectures.ARCHITECTURES, "small", factory)
    compared(tmp_path, net, "small", shape=(64, 64, 3), jumps=True, mean=(0,) * 3, std=(1,) * 3)


def test_swin_with_windows_beyond_the_last_maps(tmp_path, monkeypatch):
    """Maps of 16, 8, 4 and 2 pixels a side with windows of 4: the last group has windows of 2, unshifted."""
    module = zoo("architectures.MIMIR_swin_transformer")
    from torch import nn

    depths, heads = (2, 2, 2, 2), (2, 4, 4, 4)
    norm = functools.partial(nn.LayerNorm, eps=1e-6)
    net = module.SwinTransformer(
        64, num_classes=7, embed_dim=16, depths=depths, num_heads=heads, window_size=4, norm_layer=norm
    )
    factory = functools.partial(swin, width=16, depths=depths, heads=heads, window=4, eps=1e-6)
    monkeypatch.setitem(architectures.ARCHITECTURES, "small", factory)
    compared(tmp_path, net, "small", shape=(64, 64, 3), mean=(0,) * 3, std=(1,) * 3)


def test_the_bottlenecks_of_peng(tmp_path, monkeypatch):
    """Blocks whose squeezing layers have a quarter of what enters, with two groups of channels inside."""
    module = zoo("architectures.robustarch_wide_resnet")
    from torch import nn

    widths, depths = (32, 64, 72, 96), (2, 1, 2, 1)
    net = module.NormalizedConfigurableModel(
        mean=[0.485, 0.456, 0.406],
        std=[0.229, 0.224, 0.225],
        stage_widths=list(widths),
        kernel=3,
        strides=[2] * 4,
        dilation=1,
        norm_layer=[nn.Identity, nn.BatchNorm2d, nn.BatchNorm2d],
        activation_layer=[nn.SiLU] * 3,
        group_widths=[width // 8 for width in widths],
        bottleneck_multipliers=[0.25] * 4,
        downsample_norm=nn.BatchNorm2d,
        depths=list(depths),
        dense_ratio=None,
        stem_type=module.Stem,
        stem_width=8,
        stem_kernel=7,
        stem_downsample_factor=2,
        stem_patch_size=None,
        ConvBlock=module.Conv2dNormActivation,
        se_ratio=0.25,
        se_activation=nn.ReLU,
        num_classes=7,
    )
    factory = functools.partial(rawideresnet_imagenet, stem_width=8, widths=widths, depths=depths)
    monkeypatch.setitem(architectures.ARCHITECTURES, "small", factory)
    compared(tmp_path, net, "small", shape=(64, 64, 3))


@pytest.mark.parametrize("side", [63, 224])
def test_alexnet(tmp_path, monkeypatch, side):
    torchvision = pytest.importorskip("torchvision")
    zoo("imagenet")
    from torch import nn

    net = torchvision.models.alexnet(num_classes=7)
    net.classifier[1], net.classifier[4] = nn.Linear(9216, 64), nn.Linear(64, 64)
    net.classifier[6] = nn.Linear(64, 7)
    monkeypatch.setitem(architectures.ARCHITECTURES, "alexnet", functools.partial(alexnet, hidden=64))
    given = dict(mean=(0,) * 3, std=(1,) * 3)
    tensors = compared(tmp_path, net, "alexnet", shape=(side, side, 3), **given)
    assert recognition.recognised({name: of.shape for name, of in tensors.items()}) == ("alexnet",)


def test_bit(tmp_path, monkeypatch):
    net = zoo("architectures.bit_rn_v2").ResNetV2([1, 2, 1, 1], 1, head_size=7)
    factory = functools.partial(bit_resnet, depths=(1, 2, 1, 1), width=1)
    monkeypatch.setitem(architectures.ARCHITECTURES, "small", factory)
    compared(tmp_path, net, "small")


def test_convnext_v2(tmp_path, monkeypatch):
    """Theirs stores mean and deviation, and sees images as they are."""
    net = zoo("architectures.convnext_v2").ConvNeXtV2(
        num_classes=7, depths=[1, 2, 1, 1], dims=[8, 16, 24, 32]
    )
    del net.mean, net.std
    factory = functools.partial(convnext_v2, widths=(8, 16, 24, 32), depths=(1, 2, 1, 1))
    monkeypatch.setitem(architectures.ARCHITECTURES, "small", factory)
    compared(tmp_path, net, "small", shape=(64, 64, 3), mean=(0,) * 3, std=(1,) * 3)


def test_adaptive_smoothing(tmp_path, monkeypatch):
    """One state dict of all networks, which stores the constants; and three files, as they are published."""
    module = zoo("architectures.comp_model")
    import torch

    monkeypatch.setattr(torch.Tensor, "cuda", lambda self, *_: self)  # where theirs keeps constants
    wide = module.dm_rn.WideResNet
    monkeypatch.setattr(module.dm_rn, "WideResNet", lambda **s: wide(**{**s, "depth": 10, "width": 4}))
    small = {"BiT-M-R152x2": lambda **settings: module.bit_rn.ResNetV2([1, 1, 1, 1], 1, **settings)}
    monkeypatch.setattr(module.bit_rn, "KNOWN_MODELS", small)
    name = "adaptive_smoothing_cifar100_edm"
    net = module.CompositeModel(
        dict(std_model_type="rn152", rob_model_type="wrn7016_silu", in_planes=(256, 64), gamma=2.5)
        | dict(use_policy=True, policy_graph=True, pn_version=4, parallel=False, num_classes=7)
    )
    net.set_gamma_scale_bias(gamma_scale=2.0, gamma_bias=1.3)
    net.set_alpha_scale_bias(alpha_scale=0.15, alpha_bias=0.84)
    net.set_base_model_scale(std_scale=2.0, rob_scale=1.0)
    factory = functools.partial(
        smoothing_cifar,
        weighting=WEIGHTINGS[name],
        data=10,
        bit=((1, 1, 1, 1), 1),
        wide=(10, 4),
        widths=(384, 640, 1024),
    )
    monkeypatch.setitem(architectures.ARCHITECTURES, name, factory)
    together = module.CompositeModelWrapper(net, parallel=False)
    compared(tmp_path, together, name)
    restored(tmp_path, together)

    last = {"model": net.policy_net.state_dict(), "bn": net.bn.state_dict(), "epoch": 3}
    parts = {"m0": net.models[0].state_dict(), "m1": net.models[1].state_dict(), "m2": {"state_dict": last}}
    for part, state in parts.items():
        torch.save(state, tmp_path / part)
    ours = weights.imported(
        [tmp_path / part for part in parts], architecture=name, classes=7, shape=(SIDE, SIDE, 3)
    )
    x = np.random.default_rng(1).uniform(size=(2, SIDE, SIDE, 3)).astype(np.float32)
    with torch.no_grad():
        expected = together(torch.tensor(x.transpose(0, 3, 1, 2).copy())).numpy()
    actual = ours.logits_fn(jnp.asarray(x))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["mixednuts_cifar10", "mixednuts_cifar100"])
def test_mixednuts(tmp_path, monkeypatch, name):
    """Logits are those of the class; gradients those of what its authors attack."""
    mixing, maps = zoo("architectures.mixing_net"), zoo("architectures.output_maps")
    import torch

    sharpening, alpha, gradient_alpha = MIXINGS[name]
    accurate = zoo("architectures.bit_rn_v2").ResNetV2([1, 1, 1, 1], 1, head_size=7)
    robust = silu(("dm_wide_resnet", "DMWideResNet"), 7, 10, 1)
    scale, power, shift = sharpening
    rob_map = maps.LNClampPowerScaleMap(scale=scale, power=power, clamp_bias=shift, ln_k=250)
    settings = dict(std_map=maps.HardMaxMap(), rob_map=rob_map, alpha=alpha, alpha_diffable=gradient_alpha)
    net = mixing.NonLinMixedClassifier(accurate, robust, settings)

    def small(*, classes, shape, dtype):
        given = dict(classes=classes, shape=shape, dtype=dtype)
        steady = wideresnet_gowal(depth=10, width=1, mean=MEAN, std=STD, **given)
        return mixednuts(bit_resnet(depths=(1, 1, 1, 1), width=1, **given), steady, **MIXINGS[name]._asdict())

    monkeypatch.setitem(architectures.ARCHITECTURES, name, small)
    compared(tmp_path, net, name)

    restored(tmp_path, net)
    ours = weights.imported(tmp_path / "x.pt", architecture=name, classes=7, shape=(SIDE, SIDE, 3))
    x = np.random.default_rng(1).uniform(size=(2, SIDE, SIDE, 3)).astype(np.float32)
    weight = np.random.default_rng(2).normal(size=(2, 7)).astype(np.float32)
    theirs = torch.tensor(x.transpose(0, 3, 1, 2).copy(), requires_grad=True)
    (net(theirs, return_all=True)[1] * torch.tensor(weight)).sum().backward()
    slope = jax.jit(jax.grad(lambda x: (ours.logits_fn(x) * weight).sum()))(x)
    assert theirs.grad is not None
    expected = theirs.grad.numpy().transpose(0, 2, 3, 1)
    # A rounding at the kink of a ReLU moves single numbers.
    assert np.linalg.norm(slope - expected) < 0.03 * np.linalg.norm(expected)


def test_large_networks_and_mixtures_are_recognised(monkeypatch):
    torch = pytest.importorskip("torch")

    bit, convnext = zoo("architectures.bit_rn_v2"), zoo("architectures.convnext_v2")
    peng = zoo("architectures.robustarch_wide_resnet").get_model
    zeros = torch.zeros
    monkeypatch.setattr(torch, "linspace", lambda first, last, steps: zeros(steps, device="cpu"))
    with torch.device("meta"):
        members = {
            "bit_r152x2": bit.KNOWN_MODELS["BiT-M-R152x2"](head_size=10),
            "convnext_v2_l": convnext.convnextv2_large(),
            "gowal70_16": silu(("dm_wide_resnet", "DMWideResNet"), 10, 70, 16),
            "rawideresnet101_2_imagenet": peng("ra_wrn101_2"),
        }
    shapes = {
        name: {key: tuple(value.shape) for key, value in net.state_dict().items()}
        for name, net in members.items()
    }
    assert {name: recognition.recognised(of) for name, of in shapes.items()} == {n: (n,) for n in members}
    pair = {
        f"models.{i}.{key}": shape
        for i, name in enumerate(("bit_r152x2", "gowal70_16"))
        for key, shape in shapes[name].items()
    }
    assert recognition.recognised(pair) == ("mixednuts_cifar100",)
