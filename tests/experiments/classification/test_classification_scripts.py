"""The scripts of classification leave what they promise: a whole run folder, reports, attacks on what was trained."""

import json
import re

import jax
import numpy as np
import pytest
import scripts

from experiments.shared import classifiers, network_source
from robustjax import runtime

SMOKE = {
    "classification.quickstart": (["smoke"], ["report.html"]),
    "classification.attack": (
        ["smoke"],
        ["report.html", "results.json", "results.npz", "figures/curve.png"],
    ),
}


def test_training_leaves_a_whole_run_folder(trained):
    assert {p.name for p in trained.iterdir()} >= {
        "config.json",
        "metrics.jsonl",
        "checkpoints",
        "report.html",
    }
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == sorted({line["step"] for line in lines})
    assert any("valid_robust" in line for line in lines)
    assert {p.name for p in (trained / "figures").iterdir()} == {"attacked.png", "training.png"}
    made = json.loads((trained / "config.json").read_text())
    assert made["config"]["loss"] == "adversarial" and "jax" in made["starts"][0]["versions"]
    page = (trained / "report.html").read_text()
    assert (
        "data:image/png;base64" in page and "http" not in page.split("</style>")[1].split("Configuration")[0]
    )


@pytest.mark.parametrize("script", SMOKE)
def test_other_scripts(script, trained, tmp_path, capsys, monkeypatch):
    words, files = SMOKE[script]
    extra = ["--source.run", trained] if script == "classification.attack" else []
    done = scripts.call(capsys, monkeypatch, script, *words, *extra, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert all((tmp_path / name).stat().st_size > 100 for name in files)


@pytest.mark.slow
def test_options_together(tmp_path, capsys, monkeypatch):
    words = [
        "--updates",
        4,
        "--validate-every",
        4,
        "--images",
        16,
        "--ema",
        "--tensorboard",
        "--dtype",
        "bfloat16",
    ]
    words += ["--loss", "free", "--replays", 2]
    out = tmp_path / "run"
    done = scripts.call(capsys, monkeypatch, "classification.train", "smoke", "--out", out, *words)
    assert done.returncode == 0, done.stderr
    assert list((out / "tensorboard").glob("events*"))
    network, test = classifiers.open_classifier(str(out))
    assert network.about["loss"] == "free" and network.title == "mlp on digits"
    logits = network.logits_fn(test.image[:4].astype(np.float32) / 255)
    assert logits.shape == (4, 10) and np.isfinite(logits).all()


def trees_equal(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@pytest.mark.slow
def test_recipes_of_leaderboards_together(tmp_path, capsys, monkeypatch):
    """Averaged weights, mixed images and more images, with TRADES and AWP."""
    words = ["--updates", 4, "--validate-every", 4, "--images", 16, "--extra", "digits", "--extra-share", 0.5]
    words += ["--swa", 0.5, "--mix", "cutmix", "--loss", "trades", "--awp", 0.01]
    out = tmp_path / "run"
    done = scripts.call(capsys, monkeypatch, "classification.train", "smoke", "--out", out, *words)
    assert done.returncode == 0, done.stderr
    network, _ = classifiers.open_classifier(str(out))  # of which the average is evaluated
    like = {"ema": (network.params, network.state), "params": network.params}
    tree, _ = runtime.open_run(str(out), made_by="classification.train").restore(like, best="valid_robust")
    assert trees_equal(network.params, tree["ema"][0]) and not trees_equal(network.params, tree["params"])
    refused = scripts.call(
        capsys, monkeypatch, "classification.train", "smoke", "--mix", "mixup", "--loss", "mart"
    )
    assert refused.returncode == 2 and "soft labels" in refused.stderr


MINE = """
import jax

from robustjax import logit
from robustjax.types import frozen

def loss(model, attack):
    def value(params, state, batch, key):
        x = attack(key, frozen(model, params, state), batch.image, batch.label).x
        logits, state = model.apply(params, state, x, train=True)
        return logit.cross_entropy(logits, batch.label).mean(), (state, {})
    return value

def zeros(x):
    return 0.0 * x.reshape(len(x), -1)[:, :10]

def noisy(keys, x):
    return zeros(x) + jax.vmap(lambda key: jax.random.normal(key, (10,)))(keys)
"""


@pytest.mark.slow
def test_a_loss_of_the_users(tmp_path, capsys, monkeypatch):
    (tmp_path / "mine_in_training.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    words = ["--loss", "mine_in_training:loss", "--updates", 2, "--images", 16, "--out", tmp_path / "run"]
    done = scripts.call(capsys, monkeypatch, "classification.train", "smoke", *words)
    assert done.returncode == 0, done.stderr
    assert "mine_in_training:loss training of mlp" in (tmp_path / "run" / "report.html").read_text()


def test_functions_are_networks(tmp_path, monkeypatch):
    """A plain function decides for itself; of a randomised one, an average over more passes decides."""
    (tmp_path / "mine_as_source.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    named = {"function": "mine_as_source:zeros", "dataset": "digits"}
    network, reference, test, _ = network_source.open_network(network_source.Source(**named), 3, 0)
    x = test.image.astype(np.float32) / 255
    assert reference is network and not network.logits_fn(x).any()
    with pytest.raises(ValueError, match="has no inner activations"):
        network.model.features({}, {}, x)

    named |= {"function": "mine_as_source:noisy", "stochastic": True, "samples": 2}
    seen, reference, _, _ = network_source.open_network(network_source.Source(**named), 3, 0)
    first, second = seen.logits_fn(x), reference.logits_fn(x)
    np.testing.assert_array_equal(first, seen.logits_fn(x))
    assert np.abs(first - second).max() > 0.1 and np.abs(second).std() < np.abs(first).std()


WRONG = """
import jax, jax.numpy as jnp, numpy as np

def flat(x):
    return x.reshape(len(x), -1)

def nine(x):
    return flat(x)[:, :9]

def nine_of_keys(keys, x):
    return flat(x)[:, :9]

def train_mode(x):
    return flat(x - x.mean(axis=0))[:, :10]

def in_numpy(x):
    return np.dot(np.asarray(flat(x)), np.ones((64, 10)))

def lost(x):
    return {}["weights"]

def broken(x):
    return flat(x)[:, :10] * jnp.nan

def softmax(x):
    return jax.nn.softmax(flat(x)[:, :10])
"""


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nine", "9 logits, must give one for each of 10 classes"),
        ("nine_of_keys", "9 logits, must give one for each of 10 classes"),
        ("train_mode", "BatchNorm in train mode"),
        ("in_numpy", "write jax.numpy"),
        ("lost", "KeyError: 'weights'; it must be written in JAX"),
        ("broken", "NaN or infinite logits for each of"),
    ],
)
def test_functions_that_are_no_classifiers_are_refused(name, says, tmp_path, monkeypatch):
    (tmp_path / "wrong_source.py").write_text(WRONG)
    monkeypatch.chdir(tmp_path)
    stochastic = name.endswith("keys")
    source = network_source.Source(
        function=f"wrong_source:{name}", dataset="digits", stochastic=stochastic, samples=1
    )
    with pytest.raises(ValueError, match=re.escape(says)) as caught:
        network_source.open_network(source, 20, 0)
    assert str(caught.value).startswith("--source.function: network ") and "\n" not in str(caught.value)


def test_what_is_odd_about_a_network_is_flagged(tmp_path, monkeypatch):
    (tmp_path / "odd_source.py").write_text(WRONG)
    monkeypatch.chdir(tmp_path)
    source = network_source.Source(function="odd_source:softmax", dataset="digits")
    flags = network_source.open_network(source, 100, 0).flags
    assert [flag.name for flag in flags if flag.raised] == ["probabilities"]


def test_normalisation_has_a_number_for_each_channel():
    def constants(channels, **settings):
        return network_source.constants(network_source.Source(**settings), channels=channels)

    assert constants(1, normalisation="none") == {"mean": (0.0,), "std": (1.0,)}
    assert constants(1, normalisation="stored") == {}
    assert len(constants(3, normalisation="svhn")["mean"]) == 3
    with pytest.raises(ValueError, match="of 3 channels, and the images have 1"):
        constants(1, normalisation="cifar10")
    assert constants(1, mean=(0.5,), std=(0.25,)) == {"mean": (0.5,), "std": (0.25,)}
    with pytest.raises(ValueError, match="must have 3 numbers each"):
        constants(3, mean=(0.5,), std=(0.25,))


@pytest.mark.parametrize(
    "script",
    ["classification.train", "classification.attack", "benchmarks.attack", "classification.quickstart"],
)
def test_help_teaches(script, capsys, monkeypatch):
    done = scripts.call(capsys, monkeypatch, script, "--help")
    assert done.returncode == 0
    assert "smoke" in done.stdout and "python -m experiments." in done.stdout
