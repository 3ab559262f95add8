"""Architectures are recognised by the names and shapes of tensors; where those do not tell, what layers saw decides."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustjax.models import architectures, layouts, recognition, running_statistics, weights
from robustjax.models.adapters import from_flax
from robustjax.models.architectures import architecture
from robustjax.models.ensemble import ensemble
from robustjax.models.preactivated import Form, Preactivated, pssilu
from robustjax.models.resnext import resnext
from robustjax.models.standardised import standardised
from robustjax.types import Model

SHAPE = (8, 8, 3)
GIVEN = dict(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))


def size(model):
    params, _ = jax.eval_shape(model.init, jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def named(model, layout):
    """Name the leaves of a network as a layout does: from PyTorch's name to our path, our leaf, PyTorch's shape."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(jax.eval_shape(model.init, jax.random.key(0)))
    for path, leaf in leaves:
        order = np.argsort(weights._order(leaf.ndim))
        yield weights._called(layout, path)[0], path, leaf, tuple(leaf.shape[i] for i in order)


def shapes_of(name, layout):
    return {full: shape for full, _, _, shape in named(architecture(name)(classes=7), layout)}


LAYOUTS = {
    "resnet18": layouts.common,
    "resnet18_16": layouts.common,
    "resnet18_imagenet": layouts.common,
    "wideresnet50_2_imagenet": layouts.common,
    "preact_resnet18_rice": layouts.common,
    "preact_resnet18_affine_free": layouts.common,
    "preact_resnet50_chen": layouts.from_zero,
    "preact_resnet18_gowal": layouts.gowal_preact,
    "wideresnet10_1_cosine": layouts.trades,
    "wideresnet10_1_pssilu": layouts.trades,
    "gowal10_2": layouts.gowal,
    "gowal10_2_sparse": layouts.gowal,
    "wideresnet34_r": layouts.huang,
    "resnext29_4x32": layouts.resnext,
    "densenet16": layouts.dense,
    "densenet16_6": layouts.dense,
    "densenet121_imagenet": layouts.dense_imagenet,
    "convnext_b_convstem": layouts.convnext,
    "swin_b": layouts.swin,
    "swin_l_mimir": layouts.swin_before,
    "alexnet": layouts.alexnet,
    "vit_b_convstem": layouts.vit,
    "convnet_small": layouts.sequential,
    "ensemble3_gowal10_1": layouts.gowal,
}


@pytest.mark.parametrize("name", list(LAYOUTS))
def test_each_architecture_is_recognised(name):
    shapes = shapes_of(name, LAYOUTS[name])
    assert recognition.recognised(shapes) == (name,)
    if name != "convnet_small":
        assert recognition.described(shapes) == f"{name}, with 7 classes"


@pytest.mark.parametrize(
    ("names", "layout"),
    [
        (("wideresnet16_2", "wideresnet16_2_standardised"), layouts.trades),
        (("preact_resnet18", "preact_resnet18_wong"), layouts.common),
        (("swin_b", "swin_b_mimir"), layouts.swin_before),
    ],
)
def test_look_alikes_are_named_together(names, layout):
    """What their weights do not tell apart must not be guessed."""
    for name in names:
        assert recognition.recognised(shapes_of(name, layout)) == names
    with pytest.raises(ValueError, match=f"fit {names[0]} and"):
        weights.one_of(names, "net.pt")


def test_patches_of_either_size_have_the_same_tensors():
    tensors = {f"blocks.{i}.attn.temperature": (8, 1, 1) for i in range(12)} | {"norm.weight": (384,)}
    assert recognition.recognised(tensors) == ("xcit_s12", "xcit_s12_cifar")


def test_what_is_of_no_network_is_said():
    assert recognition.recognised({"a.weight": (3, 3)}) == ()
    assert recognition.described({"a.weight": (3, 3)}) == "no network that is known here"
    with pytest.raises(ValueError, match=r"net\.pt is of no network that is known here"):
        weights.one_of((), "net.pt")


def test_names_with_sizes():
    assert size(architecture("wideresnet40_4")()) == 8_949_210  # as in ALOE and ATOM
    assert size(architecture("gowal16_2")()) == size(architecture("wideresnet16_2")())
    with pytest.raises(ValueError, match=r"architecture is 'gowal'.*must be one of"):
        architecture("gowal")
    with pytest.raises(ValueError, match="depth is 29"):
        architecture("wideresnet29_10")()


def test_published_sizes():
    """Parameters of the classes of RobustBench 1.1.1."""
    counts = {
        "preact_resnet18_gowal": 12_548_426,
        "preact_resnet18_affine_free": 24_868_032,
        "preact_resnet50_chen": 23_516_874,
        "resnext29_4x32": 6_807_882,
    }
    assert {name: size(architecture(name)()) for name in counts} == counts


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "layout"),
    [("ensemble2_gowal10_1_sparse", layouts.gowal), ("wideresnet10_1_cosine", layouts.trades)],
)
def test_a_made_up_state_dict_comes_through(name, layout):
    model, rng = architecture(name)(classes=4, shape=SHAPE), np.random.default_rng(0)
    tensors, expected = {}, {}
    for full, path, _, shape in named(model, layout):
        value = rng.uniform(0.5, 1.5, shape).astype(np.float32)
        tensors[full], expected[path] = value, value.transpose(weights._order(len(shape)))
    found, _ = jax.tree_util.tree_flatten_with_path(weights.into(model, tensors))
    for path, leaf in found:
        np.testing.assert_array_equal(leaf, expected[path])
    logits = model.apply(*weights.into(model, tensors), jnp.zeros((2, *SHAPE)))[0]
    assert logits.shape == (2, 4)


def test_a_made_up_activation_lies_between():
    """alpha 1 and beta 0 is swish; the authors' own beta is near 0."""
    x = jnp.linspace(-3, 3, 7)
    np.testing.assert_allclose(pssilu(x, jnp.ones(1), jnp.zeros(1)), jax.nn.swish(x), atol=1e-6)


def identity():
    """A network that gives the sums over rows and columns."""

    def apply(params, state, x, *, train=False, key=None):
        return x.sum(axis=(1, 2)), state

    return Model(lambda key: ({}, {}), apply, lambda params, state, x: {"stage0": x.mean(axis=(1, 2))})


def test_standardising_by_hand():
    """Images of two numbers, 0 and 1: mean 1/2, deviation sqrt(1/2); a constant image gives zeros, without NaN."""
    model = standardised(identity())
    x = jnp.array([0.0, 1.0]).reshape(1, 1, 2, 1)
    deviation = np.sqrt(0.5)
    np.testing.assert_allclose(model.features({}, {}, x)["stage0"], [[0.0]], atol=1e-7)
    half = standardised(identity()._replace(apply=lambda p, s, x, **_: (x[:, 0, :, 0], s)))
    np.testing.assert_allclose(half.apply({}, {}, x)[0], [[-0.5 / deviation, 0.5 / deviation]], rtol=1e-6)
    same = jnp.full((1, 1, 2, 1), 0.3)
    slope = jax.grad(lambda x: half.apply({}, {}, x)[0][0, 1])(same)
    np.testing.assert_allclose(half.apply({}, {}, same)[0], [[0.0, 0.0]], atol=1e-7)
    # The floor 1 / sqrt(2) divides (x - mean), whose slope in the second number is 1/2.
    np.testing.assert_allclose(slope.ravel(), [-0.5 * np.sqrt(2), 0.5 * np.sqrt(2)], rtol=1e-6)


def test_an_ensemble_by_hand():
    """Two members that are sure of different classes give both one half."""
    sure = [
        identity()._replace(
            apply=lambda p, s, x, *, train, key, k=k: (jnp.eye(2)[k][None] * 50 * jnp.ones((1, 2)), s)
        )
        for k in (0, 1)
    ]
    model = ensemble(sure)
    params, state = model.init(jax.random.key(0))
    np.testing.assert_allclose(jnp.exp(model.apply(params, state, jnp.zeros((1, 1, 1, 1)))[0]), [[0.5, 0.5]])
    with pytest.raises(ValueError, match="no members"):
        ensemble([])


def test_groups_do_not_see_each_other():
    with pytest.raises(ValueError, match="multiple of 64"):
        resnext(cardinality=3)
    with pytest.raises(ValueError, match="depth is 19"):
        resnext(depth=19)


# --- running statistics -------------------------------------------------------------------------------


def trained(model, x, seed=0):
    """Give a network with random weights the statistics of its layers on images, as training would."""
    params, state = model.init(jax.random.key(seed))
    rng = np.random.default_rng(seed)
    params = jax.tree_util.tree_map_with_path(
        lambda path, leaf: (
            rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
            if path[-1].key == "scale"
            else leaf + (rng.normal(0, 0.5, leaf.shape).astype(np.float32) if path[-1].key == "bias" else 0)
        ),
        params,
    )
    _, after = jax.jit(lambda p, s, x: model.apply(p, s, x, train=True))(params, state, x)
    return params, jax.tree.map(lambda new, old: (new - 0.9 * old) / 0.1, after, state)


@pytest.fixture(scope="module")
def images():
    """Smooth colour images in [0, 1], two halves of one set."""
    rng = np.random.default_rng(0)
    coarse = rng.uniform(size=(128, 3, 3, 3))
    x = np.asarray(jax.image.resize(coarse, (128, 8, 8, 3), "linear"), np.float32)
    return np.clip(0.6 * x + 0.3 * rng.uniform(size=(128, 1, 1, 3)), 0, 1).astype(np.float32)


def small(form):
    net = Preactivated("conv1", 8, (8, 16), (1, 2), 4, form, last_norm=False)
    return from_flax(net, shape=(8, 8, 3), **GIVEN)


@pytest.mark.slow
@pytest.mark.parametrize("look_alikes", [(small(Form()), small(Form(early=True))), ("plain", "standardised")])
def test_a_look_alike_disagrees_with_the_statistics(images, look_alikes):
    if look_alikes[0] == "plain":
        given = dict(shape=(8, 8, 3), classes=4)
        look_alikes = (
            architecture("wideresnet10_1")(**given, **GIVEN),
            architecture("wideresnet10_1_standardised")(**given),
        )
    for model, other in (look_alikes, look_alikes[::-1]):
        params, state = trained(model, images[::2])
        near = running_statistics.disagreement(model, params, state, images[1::2])
        far = running_statistics.disagreement(other, params, state, images[1::2])
        assert near.worst < 0.5 * running_statistics.FAR
        assert far.worst > 2 * near.worst


@pytest.mark.slow
def test_wrong_constants_disagree_with_the_statistics(images):
    """The first layer sees (x - m) / s; read with other constants its mean and variance are off by hand arithmetic."""
    build = lambda mean, std: architecture("wideresnet10_1")(shape=images.shape[1:], mean=mean, std=std)
    params, state = trained(build(**GIVEN), images)
    right = running_statistics.disagreement(build(**GIVEN), params, state, images)
    assert right.worst < 1e-2
    wrong = running_statistics.disagreement(build((0.0,) * 3, (1.0,) * 3), params, state, images)
    assert wrong.worst > running_statistics.FAR


@pytest.mark.slow
def test_the_distance_of_normal_distributions(images):
    """One layer: statistics moved by 2 deviations and scaled by e in variance are sqrt(4 + 1/2) apart."""
    model = small(Form())
    params, state = trained(model, images)
    first = state["batch_stats"]["stage1_block0"]["norm1"]
    first["mean"], first["var"] = (
        first["mean"] + 2 * np.sqrt(np.e * (first["var"] + 1e-5)),
        np.e * (first["var"] + 1e-5) - 1e-5,
    )
    found = running_statistics.disagreement(model, params, state, images)
    assert found.layer == "stage1_block0/norm1"
    np.testing.assert_allclose(found.worst, np.sqrt(4.5), rtol=1e-2)
    assert running_statistics.disagreement(identity(), {}, {}, images) is None


def test_every_listed_name_can_be_built():
    for name, factory in architectures.ARCHITECTURES.items():
        assert architecture(name) is factory


@pytest.mark.parametrize(
    ("worst", "named", "expected"),
    [
        ((0.1, 3.0), None, 0),
        ((3.0, 0.1), None, 1),
        ((0.1, 0.15), None, "name one"),  # too near to tell
        ((2.0, 9.0), None, "name one"),  # neither is near
        ((0.1, 3.0), "a", 0),
        ((3.0, 0.1), "a", "architecture is a, must be b"),
        ((0.3, 0.2), "a", 0),  # the user knows better
    ],
)
def test_the_nearest_is_chosen_and_a_named_one_defended(worst, named, expected):
    apart = [running_statistics.Disagreement(value, "norm1") for value in worst]
    if isinstance(expected, int):
        assert running_statistics.chosen(("a", "b"), apart, named) == expected
    else:
        with pytest.raises(ValueError, match=expected):
            running_statistics.chosen(("a", "b"), apart, named)


def test_without_batch_norm_nothing_is_told():
    assert running_statistics.chosen(("a",), [None]) == 0
    assert running_statistics.chosen(("a", "b"), [None, None], "a") == 0
    with pytest.raises(ValueError, match="fit a and b"):
        running_statistics.chosen(("a", "b"), [None, None])
