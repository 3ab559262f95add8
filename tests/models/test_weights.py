"""Imported networks compute what they did in PyTorch; what does not fit is told in one line."""

import functools
import hashlib
import inspect
import itertools
import json
import re
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustjax.models import layernames, recognition, weights
from robustjax.models.published_wide import wideresnet_gowal
from robustjax.models.wideresnet import wideresnet

TINY = (8, 8, 3)
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)


def one_line(call, *words):
    with pytest.raises(ValueError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


def wide_tensors(width=1, classes=4, seed=0):
    """A WRN-10 in the names of TRADES, as its paper has it."""
    rng, tensors = np.random.default_rng(seed), {}

    def norm(name, count):
        for part in ("weight", "bias", "running_mean", "running_var"):
            tensors[f"{name}.{part}"] = rng.uniform(0.5, 1.5, count).astype(np.float32)
        tensors[f"{name}.num_batches_tracked"] = np.array(3)

    def conv(name, narrow, wide, size):
        tensors[f"{name}.weight"] = rng.normal(0, 0.1, (wide, narrow, size, size)).astype(np.float32)

    widths = [16, 16 * width, 32 * width, 64 * width]
    conv("conv1", 3, 16, 3)
    for i, (narrow, wide) in enumerate(itertools.pairwise(widths), start=1):
        at = f"block{i}.layer.0"
        norm(f"{at}.bn1", narrow)
        conv(f"{at}.conv1", narrow, wide, 3)
        norm(f"{at}.bn2", wide)
        conv(f"{at}.conv2", wide, wide, 3)
        if narrow != wide:
            conv(f"{at}.convShortcut", narrow, wide, 1)
    norm("bn1", widths[-1])
    tensors["fc.weight"] = rng.normal(0, 0.1, (classes, widths[-1])).astype(np.float32)
    tensors["fc.bias"] = rng.normal(0, 0.1, classes).astype(np.float32)
    return tensors


def save(path, tensors):
    """Write safetensors by hand."""
    header, body = {}, b""
    for name, value in tensors.items():
        kind = {"float32": "F32", "int64": "I64"}[value.dtype.name]
        data = np.ascontiguousarray(value).tobytes()
        header[name] = {
            "dtype": kind,
            "shape": list(value.shape),
            "data_offsets": [len(body), len(body) + len(data)],
        }
        body += data
    words = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(words)) + words + body)
    return path


@pytest.fixture
def tiny(monkeypatch):
    """A small architecture beside the real ones."""
    monkeypatch.setitem(weights.ARCHITECTURES, "tiny", functools.partial(wideresnet, depth=10, width=1))
    return functools.partial(weights.imported, architecture="tiny", classes=4, shape=TINY)


def test_every_value_lands_in_its_place():
    tensors = wide_tensors()
    model = wideresnet(depth=10, width=1, classes=4, shape=TINY)
    params, state = weights.into(model, bare(tensors))
    drawn = jax.eval_shape(model.init, jax.random.key(0))
    assert jax.tree.structure((params, state)) == jax.tree.structure(drawn)
    assert all(
        isinstance(a, jax.Array) and a.dtype == b.dtype
        for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(drawn[0]))
    )
    kernel = params["stage2_block0"]["conv1"]["kernel"]
    np.testing.assert_array_equal(kernel[2, 0, 5, 7], tensors["block2.layer.0.conv1.weight"][7, 5, 2, 0])
    np.testing.assert_array_equal(params["head"]["kernel"], tensors["fc.weight"].T)
    np.testing.assert_array_equal(params["norm"]["scale"], tensors["bn1.weight"])
    statistics = state["batch_stats"]["stage3_block0"]["norm2"]
    np.testing.assert_array_equal(statistics["var"], tensors["block3.layer.0.bn2.running_var"])
    np.testing.assert_array_equal(statistics["mean"], tensors["block3.layer.0.bn2.running_mean"])


def bare(tensors):
    return {name: tensors[full] for name, full in layernames.bare(tensors).items()}


@pytest.mark.parametrize(
    "wrapper", ["", "module.", "model.", "net.", "module.model.", "_orig_mod.module.", "1.", "model.model."]
)
def test_wrappers_are_stripped(tmp_path, wrapper):
    tensors = wide_tensors()
    path = save(tmp_path / "x.safetensors", {wrapper + name: value for name, value in tensors.items()})
    found = weights.load(path)
    assert sorted(found) == sorted(name for name in tensors if "num_batches" not in name)
    np.testing.assert_array_equal(found["fc.weight"], tensors["fc.weight"])


def test_wrappers_must_not_merge_two_networks(tmp_path):
    path = save(
        tmp_path / "x.safetensors", {"module.a.w": np.ones(1, np.float32), "a.w": np.ones(1, np.float32)}
    )
    one_line(lambda: weights.load(path), "module.a.w", "a.w")


@pytest.mark.parametrize(
    ("names", "shape"),
    [
        (("mean", "std"), (3, 1, 1)),
        (("mu", "sigma"), (1, 3, 1, 1)),
        (("normalize.mean", "normalize.std"), (3,)),
        (("0.mean", "0.std"), (3, 1, 1)),
        (("module.normalizer.new_mean", "module.normalizer.new_std"), (3, 1, 1)),
    ],
)
def test_stored_constants_are_used_and_defended(tmp_path, tiny, names, shape):
    stored = {name: np.float32(value).reshape(shape) for name, value in zip(names, (MEAN, STD))}
    path = save(tmp_path / "x.safetensors", {**wide_tensors(), **stored})
    net = tiny(path)
    np.testing.assert_allclose((net.about["mean"], net.about["std"]), (MEAN, STD), rtol=1e-6)
    tiny(path, mean=MEAN, std=STD)
    one_line(lambda: tiny(path, mean=(0.5,) * 3, std=STD), "imported:", "0.5", "leave them out")
    one_line(lambda: tiny(path, mean=MEAN), "both or neither")
    # `into` knows nothing of them, so it must not swallow them.
    one_line(lambda: weights.into(net.model, weights.load(path)), "unused", names[0].rpartition(".")[2])


def test_constants_are_inside_the_model(tmp_path, tiny):
    path = save(tmp_path / "x.safetensors", wide_tensors())
    one_line(lambda: tiny(path), "stores no mean and std", "(0, 0, 0)")
    plain = tiny(path, mean=(0, 0, 0), std=(1, 1, 1))
    scaled = tiny(path, mean=MEAN, std=STD)
    x = np.random.default_rng(1).uniform(size=(2, *TINY)).astype(np.float32)
    seen = ((x - MEAN) / STD).astype(np.float32)
    logits = jax.jit(scaled.model.apply)(scaled.params, scaled.state, x)[0]
    np.testing.assert_allclose(
        logits, jax.jit(plain.model.apply)(plain.params, plain.state, seen)[0], rtol=1e-4, atol=1e-4
    )


def test_constants_of_the_architecture_are_the_last_resort(tmp_path, tiny, monkeypatch):
    usual = functools.partial(wideresnet, depth=10, width=1, mean=MEAN, std=STD)
    monkeypatch.setitem(weights.ARCHITECTURES, "tiny", usual)
    path = save(tmp_path / "x.safetensors", wide_tensors())
    assert tiny(path).about["mean"] == MEAN
    assert tiny(path, mean=STD, std=MEAN).about["mean"] == STD
    settings = inspect.signature(weights.ARCHITECTURES["resnet50_imagenet"]).parameters
    assert settings["mean"].default == (0.485, 0.456, 0.406)


def test_constants_that_make_no_sense():
    for stored, word in [
        ({"mean": np.zeros(3)}, "one of mean and std"),
        ({"mean": np.zeros(2), "std": np.ones(2)}, "channel"),
        ({"mean": np.zeros(3), "mu": np.ones(3), "std": np.ones(3)}, "channel"),
    ]:
        one_line(lambda stored=stored: weights.constants(stored), "constants:", word)
    found, rest = weights.constants(
        {"mean": np.zeros(()), "std": np.full(1, 0.5), "layer1.0.bn1.mean": np.ones(1)}
    )
    assert found == ((0.0,) * 3, (0.5,) * 3)
    assert list(rest) == ["layer1.0.bn1.mean"]


def test_half_precision_files_are_widened(tmp_path):
    tensors = {name: value.astype(np.float16) for name, value in bare(wide_tensors()).items()}
    params, _ = weights.into(wideresnet(depth=10, width=1, classes=4), tensors)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}


def test_what_does_not_fit_is_told(tmp_path, tiny):
    tensors = wide_tensors()
    given = dict(mean=MEAN, std=STD)
    path = save(tmp_path / "x.safetensors", tensors)
    one_line(lambda: tiny(path, architecture="wrn", **given), "'wrn'", "wideresnet28_10")
    one_line(
        lambda: tiny(path, classes=7, **given),
        "fc.weight is (4, 64), must be (7, 64)",
        "fc.bias is (4,), must be (7,)",
        "wideresnet10_1 or wideresnet10_1_standardised, with 4 classes",
    )
    one_line(lambda: tiny(path, architecture="wideresnet28_10", **given), "missing: ", " more")
    one_line(lambda: tiny(path, architecture="resnet18", **given), "missing: ", "unused: ", "wideresnet10_1")
    renamed = {name.replace("block2.layer.0.bn1", "block2.layer.0.norm1"): v for name, v in tensors.items()}
    path = save(tmp_path / "y.safetensors", renamed)
    one_line(
        lambda: tiny(path, **given),
        "missing: block2.layer.0.bn1.bias (nearest: block2.layer.0.norm1.bias)",
        "unused: block2.layer.0.norm1.weight",
        "and 1 more",
    )
    path = save(tmp_path / "z.safetensors", {**tensors, "fc2.weight": np.ones((2, 2), np.float32)})
    one_line(lambda: tiny(path, **given), "unused: fc2.weight;")
    one_line(
        lambda: weights.into(wideresnet_gowal(depth=10, width=1, classes=4), tensors), "missing: init_conv"
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_by_name(tmp_path, tiny, value):
    tensors = wide_tensors()
    tensors["block3.layer.0.bn2.running_var"][5] = value
    path = save(tmp_path / "x.safetensors", tensors)
    one_line(
        lambda: tiny(path, mean=MEAN, std=STD),
        "block3.layer.0.bn2.running_var holds 1 values that are NaN or infinite",
    )


def test_a_variance_too_large_for_half_precision_is_refused():
    """The variance 7e4 of a network saved in float16 is infinite, and its BatchNorm gives zeros."""
    tensors = bare(wide_tensors())
    with np.errstate(over="ignore"):
        tensors["bn1.running_var"] = np.full(64, 7e4).astype(np.float16)
    model = wideresnet(depth=10, width=1, classes=4)
    one_line(
        lambda: weights.into(model, tensors),
        "bn1.running_var holds 64 values",
        "float16, which ends at 65504",
    )


def mnist_tensors(widths=(16, 32), hidden=100, seed=0):
    """The MNIST network of Wong and Kolter, as a Sequential of theirs is saved."""
    rng, (a, b) = np.random.default_rng(seed), widths
    shapes = {
        "0.weight": (a, 1, 4, 4), "0.bias": (a,), "2.weight": (b, a, 4, 4), "2.bias": (b,),
        "5.weight": (hidden, b * 49), "5.bias": (hidden,), "7.weight": (10, hidden), "7.bias": (10,),
    }  # fmt: skip
    return {name: rng.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes.items()}


def in_numpy(tensors, x):
    """Compute it from the definition, channels first, one output pixel at a time."""
    x = x.transpose(0, 3, 1, 2).astype(np.float64)
    for place in (0, 2):
        kernel, x = tensors[f"{place}.weight"], np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
        side = (x.shape[2] - 4) // 2 + 1
        out = np.zeros((len(x), len(kernel), side, side))
        for i, j in itertools.product(range(side), repeat=2):
            patch = x[:, :, 2 * i : 2 * i + 4, 2 * j : 2 * j + 4]
            out[:, :, i, j] = np.einsum("bchw,ochw->bo", patch, kernel) + tensors[f"{place}.bias"]
        x = np.maximum(out, 0)
    x = np.maximum(x.reshape(len(x), -1) @ tensors["5.weight"].T + tensors["5.bias"], 0)
    return x @ tensors["7.weight"].T + tensors["7.bias"]


def test_the_mnist_network_of_wong_and_kolter_is_read(tmp_path):
    """Its dense layer reads channels first, ours channels last."""
    tensors = mnist_tensors()
    path = save(tmp_path / "mnist.safetensors", tensors)
    one_line(
        lambda: weights.imported(path, architecture="convnet_small", classes=10), "mean (0,) and std (1,)"
    )
    given = dict(classes=10, mean=(0.0,), std=(1.0,))
    net = weights.imported(path, architecture="convnet_small", **given)
    x = np.random.default_rng(1).uniform(size=(3, 28, 28, 1)).astype(np.float32)
    np.testing.assert_allclose(net(jnp.asarray(x)), in_numpy(tensors, x), rtol=1e-4, atol=1e-5)
    one_line(
        lambda: weights.imported(path, architecture="resnet18", classes=10, mean=(0,) * 3, std=(1,) * 3),
        "convnet_small, with 10 classes",
    )


def test_a_residual_network_without_batch_norm_is_not_guessed():
    shapes = {"conv1.weight": (64, 3, 3, 3), "layer1.0.conv1.weight": (64, 64, 3, 3)}
    assert recognition.recognised(shapes) == ()


def test_fingerprint(tmp_path, tiny):
    path = save(tmp_path / "x.safetensors", wide_tensors())
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    assert weights.fingerprint(path) == tiny(path, mean=MEAN, std=STD).about["sha256"] == expected


# --- against PyTorch ----------------------------------------------------------------------------------

CASES = {
    "resnet18": ("resnet18", lambda zoo: zoo.ResNet((2, 2, 2, 2), 7), 16),
    "resnet50": ("resnet50", lambda zoo: zoo.ResNet((3, 4, 6, 3), 7, bottleneck=True), 16),
    "imagenet": (
        "resnet50_imagenet",
        lambda zoo: zoo.ResNet((3, 4, 6, 3), 7, bottleneck=True, large=True),
        64,
    ),
    "kuangliu": ("preact_resnet18", lambda zoo: zoo.PreActResNet18(7, early=False, last=False), 16),
    "wong": ("preact_resnet18_wong", lambda zoo: zoo.PreActResNet18(7, early=True, last=False), 16),
    "rice": ("preact_resnet18_rice", lambda zoo: zoo.PreActResNet18(7, early=False, last=True), 16),
    "trades": ("trades16_2", lambda zoo: zoo.TradesWide(16, 2, 7), 32),
    "gowal": ("gowal16_2", lambda zoo: zoo.GowalWide(16, 2, 7), 32),
}
NARROW = {
    "trades16_2": functools.partial(wideresnet, depth=16, width=2),
    "gowal16_2": functools.partial(wideresnet_gowal, depth=16, width=2),
}


@pytest.mark.oracle
@pytest.mark.parametrize("case", list(CASES))
def test_logits_are_those_of_pytorch(tmp_path, monkeypatch, case):
    torch = pytest.importorskip("torch")
    import torch_zoo as zoo

    architecture, build, size = CASES[case]
    for name, factory in NARROW.items():
        monkeypatch.setitem(weights.ARCHITECTURES, name, factory)
    net = zoo.randomised(build(zoo))
    stored = isinstance(net, zoo.Normalise)
    whole = net if stored else torch.nn.Sequential(zoo.Normalise(mean=MEAN, std=STD), net)
    x = np.random.default_rng(0).uniform(size=(2, size, size, 3)).astype(np.float32)
    with torch.no_grad():
        z = torch.tensor(x.transpose(0, 3, 1, 2).copy())
        zoo.scale_head(net, whole(z).abs().max())
        expected = whole(z).numpy()
    path = tmp_path / "x.pt"
    torch.save({"state_dict": {f"module.{name}": value for name, value in net.state_dict().items()}}, path)
    given = {} if stored else dict(mean=MEAN, std=STD)
    shape = (size, size, 3)
    ours = weights.imported(path, architecture=architecture, classes=7, shape=shape, **given)
    actual = jax.jit(ours.model.apply)(ours.params, ours.state, x)[0]
    assert 0.3 < np.abs(expected).max() < 3
    assert np.std(expected[0] - expected[1]) > 1e-3  # the images matter
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)

    seems = recognition.described({name: value.shape for name, value in weights.load(path).items()})
    told = {"trades16_2": "wideresnet16_2"}
    assert re.search(rf"\b{told.get(architecture, architecture)}\b", seems), seems
    assert "with 7 classes" in seems


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("architecture", "build"),
    [
        ("resnet34", lambda zoo: zoo.ResNet((3, 4, 6, 3), 10)),
        ("resnet18_imagenet", lambda zoo: zoo.ResNet((2, 2, 2, 2), 10, large=True)),
        *(
            (f"wideresnet{d}_{w}", lambda zoo, d=d, w=w: zoo.TradesWide(d, w, 10, dead=w % 2 == 0))
            for d, w in ((28, 4), (28, 10), (34, 10), (34, 15), (34, 20), (70, 16))
        ),
        *(
            (f"gowal{d}_{w}", lambda zoo, d=d, w=w: zoo.GowalWide(d, w, 10))
            for d, w in ((28, 10), (34, 10), (34, 20), (70, 16), (106, 16))
        ),
    ],
)
def test_every_tensor_of_the_large_ones_has_its_place(architecture, build):
    torch = pytest.importorskip("torch")
    import torch_zoo as zoo

    with torch.device("meta"):  # shapes only
        net = build(zoo)
    tensors = {name: np.broadcast_to(np.float32(0), v.shape) for name, v in net.state_dict().items()}
    model = weights.ARCHITECTURES[architecture](classes=10)
    _, tensors = weights.constants(bare(tensors))
    params, _ = jax.eval_shape(lambda: weights.into(model, tensors))
    called = {name for name, _ in net.named_parameters() if not name.startswith("sub_block1")}
    count = sum(p.numel() for name, p in net.named_parameters() if name in called)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count


@pytest.mark.oracle
def test_the_wrong_variant_fits_but_computes_something_else():
    """Why the caller must name the variant: the files are the same."""
    torch = pytest.importorskip("torch")
    import torch_zoo as zoo

    net = zoo.randomised(zoo.PreActResNet18(7, early=True, last=False))
    tensors = bare({name: value.numpy() for name, value in net.state_dict().items()})
    x = np.random.default_rng(0).uniform(size=(1, 8, 8, 3)).astype(np.float32)
    with torch.no_grad():
        expected = net(torch.tensor(x.transpose(0, 3, 1, 2).copy())).numpy()
    model = weights.ARCHITECTURES["preact_resnet18"](classes=7)
    wrong = jax.jit(model.apply)(*weights.into(model, tensors), x)[0]
    assert np.abs(wrong - expected).max() > 0.1 * np.abs(expected).max()


@pytest.mark.oracle
def test_the_format_of_the_robustness_library(tmp_path, tiny):
    torch = pytest.importorskip("torch")
    inner = {name: torch.tensor(value) for name, value in wide_tensors().items()}
    whole = {
        f"module.{at}{name}": value for at in ("model.", "attacker.model.") for name, value in inner.items()
    }
    for at in ("normalizer", "attacker.normalize"):
        whole |= {
            f"module.{at}.new_{k}": torch.tensor(v).view(3, 1, 1) for k, v in (("mean", MEAN), ("std", STD))
        }
    path = tmp_path / "x.pt"
    torch.save(
        {"model": whole, "optimizer": torch.optim.SGD([torch.ones(1)], 0.1).state_dict(), "epoch": 1}, path
    )
    net = tiny(path)
    np.testing.assert_allclose(net.about["mean"], MEAN, rtol=1e-6)
    np.testing.assert_array_equal(net.params["head"]["bias"], inner["fc.bias"].numpy())
