"""The script reads a checkpoint by itself: architecture, constants, radius and what is published of it."""

import types

import jax
import numpy as np
import pytest

from experiments.classification.attack_report import beside_published
from experiments.classification.config import AttackConfig
from experiments.shared import network_source
from experiments.shared.network_source import Source
from robustjax.analysis.intervals import Estimate
from robustjax.catalog import known_checkpoints
from robustjax.data.sources import Info, Split
from robustjax.models import architectures, layouts, weights
from robustjax.models.adapters import from_flax
from robustjax.models.preactivated import Form, Preactivated

GIVEN = dict(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
KNOWN = "Gowal2021Improving_28_10_ddpm_100m"


def factory(form):
    """The two groups of a pre-activation ResNet, small."""

    def build(*, classes=10, shape=(8, 8, 3), mean=None, std=None, dtype=np.float32):
        net = Preactivated("conv1", 8, (8, 16), (1, 2), classes, form, last_norm=False)
        return from_flax(net, shape=shape, mean=mean, std=std)

    return build


@pytest.fixture
def test_images():
    rng = np.random.default_rng(0)
    coarse = rng.uniform(size=(64, 3, 3, 3)) * 0.7 + 0.3 * rng.uniform(size=(64, 1, 1, 3))
    x = np.asarray(jax.image.resize(coarse, (64, 8, 8, 3), "linear"))
    info = Info("made_up", "test", tuple("abcd"), 64, (16,) * 4, "", "", "")
    return Split(np.uint8(255 * x), np.arange(64, dtype=np.int32) % 4, np.arange(64), info)


@pytest.fixture
def file(tmp_path, monkeypatch, test_images):
    """A checkpoint of the variant `wong`, whose layers saw the test images in training."""
    from safetensors.numpy import save_file

    for name, form in (("preact_resnet18", Form()), ("preact_resnet18_wong", Form(early=True))):
        monkeypatch.setitem(architectures.ARCHITECTURES, name, factory(form))
    monkeypatch.setattr(
        network_source.weights.recognition,
        "recognised",
        lambda shapes: ("preact_resnet18", "preact_resnet18_wong"),
    )
    model = factory(Form(early=True))(classes=4, **GIVEN)
    params, state = model.init(jax.random.key(0))
    x = test_images.image.astype(np.float32) / 255
    after = model.apply(params, state, x, train=True)[1]
    state = jax.tree.map(lambda new, old: (new - 0.9 * old) / 0.1, after, state)
    leaves, _ = jax.tree_util.tree_flatten_with_path((params, state))
    tensors = {
        weights._called(layouts.common, path)[0]: np.ascontiguousarray(
            np.asarray(leaf).transpose(np.argsort(weights._order(leaf.ndim)))
        )
        for path, leaf in leaves
    }
    save_file(tensors, tmp_path / "wong.safetensors")
    return str(tmp_path / "wong.safetensors")


def source(file, **settings):
    return Source(checkpoint=file, dataset="made_up", **settings)


@pytest.mark.slow
def test_of_two_look_alikes_the_one_that_was_trained_is_read(file, test_images):
    given = dict(mean=GIVEN["mean"], std=GIVEN["std"])
    network, flag = network_source.open_checkpoint(source(file, **given), test_images)
    assert network.about["architecture"] == "preact_resnet18_wong"
    assert not flag.raised
    assert network.title.startswith("preact_resnet18_wong of wong.safetensors")
    with pytest.raises(ValueError, match="architecture is preact_resnet18, must be preact_resnet18_wong"):
        network_source.open_checkpoint(source(file, architecture="preact_resnet18", **given), test_images)


@pytest.mark.slow
def test_wrong_constants_raise_a_flag(file, test_images):
    named = source(file, architecture="preact_resnet18_wong", normalisation="none")
    _, flag = network_source.open_checkpoint(named, test_images)
    assert flag.raised
    assert "other constants of normalisation" in flag.says


def test_a_known_checkpoint_says_the_rest():
    config = AttackConfig(source=Source(checkpoint="net.pt", known=KNOWN), out="x")
    config.check()
    assert config.ball() == ("linf", 8 / 255)
    assert AttackConfig().ball() == ("linf", 0.3)
    assert AttackConfig(norm="l2", eps=1.0).ball() == ("l2", 1.0)
    assert AttackConfig(source=Source(checkpoint="net.pt", known="cifar10/l2/Standard")).ball() == ("l2", 0.5)
    with pytest.raises(ValueError, match="--eps is missing"):
        AttackConfig(source=Source(checkpoint="net.pt", known=KNOWN), norm="l2").ball()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (dict(known=KNOWN, architecture="resnet18"), "resnet18, but --source.known .* says gowal28_10"),
        (dict(known=KNOWN, normalisation="none"), "--source.normalisation is none"),
        (dict(known=KNOWN, dataset="mnist"), "--source.dataset is mnist"),
        (dict(known="Kang2021Stable"), "Neural ODE block, which is not among the networks here"),
        (dict(mean=(0.5,) * 3), "one of --source.mean and --source.std"),
        (dict(mean=(0.5,) * 3, std=(0.5,) * 3, normalisation="none"), "must be one of them"),
        (dict(architecture="resnet19"), "architecture is 'resnet19'"),
    ],
)
def test_what_contradicts_is_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        Source(**{"checkpoint": "net.pt", "dataset": "cifar10", **settings}).require()


def test_settings_of_a_checkpoint_need_one():
    with pytest.raises(ValueError, match=r"--source\.known is given, must come with --source\.checkpoint"):
        Source(run="runs/x", known=KNOWN).require()


def test_constants_on_the_command_line():
    found = network_source.constants(Source(mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 1.0)), channels=3)
    assert found == {"mean": (0.1, 0.2, 0.3), "std": (1.0, 1.0, 1.0)}
    with pytest.raises(ValueError, match="must have 1 numbers each"):
        network_source.constants(Source(mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 1.0)), channels=1)


def test_files_of_an_ensemble(tmp_path):
    assert network_source.checkpoint_files("a.pt,b.pt") == ["a.pt", "b.pt"]
    (tmp_path / "a,b.pt").write_text("")
    assert network_source.checkpoint_files(str(tmp_path / "a,b.pt")) == [str(tmp_path / "a,b.pt")]


def test_measured_stands_beside_published():
    """8 of 10 images classified correctly, 5 after the attack; robust accuracy is compared at the board's radius."""
    intervals = [("clean", Estimate(0.8, 0.5, 0.9)), ("apgd-ce", Estimate(0.5, 0.2, 0.8))]
    report = types.SimpleNamespace(accuracy=lambda: intervals)
    known = known_checkpoints.known(KNOWN)
    rows = beside_published(known, report, "linf", 8 / 255)
    assert [(row["accuracy"], row["measured %"], row["published %"]) for row in rows] == [
        ("clean", 80.0, 87.5),
        ("robust", 50.0, 63.38),
    ]
    assert len(beside_published(known, report, "l2", 8 / 255)) == 1
    assert len(beside_published(known, report, "linf", 4 / 255)) == 1
