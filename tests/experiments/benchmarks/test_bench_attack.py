"""The benchmark of attacks runs, and its peers compute the same function as our networks."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scripts

from experiments.benchmarks import peers, score_attacks, white_box
from robustjax.catalog import models as model_names
from robustjax.ood import metrics


def test_smoke(trained, tmp_path, capsys, monkeypatch):
    words = ("smoke", "--runs", trained, "--no-peers", "--out", tmp_path / "lines.jsonl")
    done = scripts.call(capsys, monkeypatch, "benchmarks.attack", *words)
    assert done.returncode == 0, done.stderr
    (line,) = (tmp_path / "lines.jsonl").read_text().splitlines()
    standard, pgd = json.loads(line)["results"]
    assert standard["attack"] == "standard" and list(standard["parts"]) == [
        "apgd-ce",
        "apgd-t",
        "fab-t",
        "square",
    ]
    assert 0 < standard["robust %"] <= 100 and set(standard["microseconds"]) == set(standard["parts"])
    assert pgd["attack"] == "pgd" and "ours" in done.stdout


@pytest.mark.slow
def test_nearest_smoke(trained, tmp_path, capsys, monkeypatch):
    words = (
        "smoke",
        "--runs",
        trained,
        "--no-peers",
        "--nearest",
        "44",
        "--norms",
        "linf",
        "l2",
        "--out",
        tmp_path / "lines.jsonl",
    )
    done = scripts.call(capsys, monkeypatch, "benchmarks.attack", *words)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "lines.jsonl").read_text())["results"]
    assert {(row["norm"], row["search"]) for row in rows} == {
        *((norm, f"ours {name}") for norm in ("linf", "l2") for name in ("fmn", "deepfool", "fab")),
        ("l2", "ours ddn"),
        ("l2", "ours super_deepfool"),
    }
    assert all(row["optimality"] is None or row["optimality"] <= 1 + 1e-6 for row in rows)
    passes = {row["search"]: row["passes"] for row in rows}
    assert passes["ours fmn"] == passes["ours super_deepfool"] == 44
    assert passes["ours fab"] == 36  # of 12 each
    assert all(row["median interval"][0] <= row["median"] <= row["median interval"][1] for row in rows)


@pytest.mark.slow
def test_fast_smoke(trained, tmp_path, capsys, monkeypatch):
    words = ("smoke", "--source.run", trained, "--eps", "0.1", "--out", tmp_path / "lines.jsonl")
    done = scripts.call(capsys, monkeypatch, "benchmarks.fast", *words)
    assert done.returncode == 0, done.stderr
    standard, fast = json.loads((tmp_path / "lines.jsonl").read_text())["results"]
    assert (standard["suite"], standard["agree %"], standard["passes / standard"]) == ("standard", 100, 1)
    assert 0 < fast["passes"] < 0.2 * standard["passes"]
    # Both count the same images, so what they differ by is what one missed and the other found more.
    gap = (fast["robust %"] - standard["robust %"]) * fast["images"] / 100
    assert gap == pytest.approx(fast["missed"] - fast["more"])


def test_fast_refuses_what_it_cannot_compare(capsys, monkeypatch):
    words = ("smoke", "--source.run", "there", "--suites", "fast")
    done = scripts.call(capsys, monkeypatch, "benchmarks.fast", *words)
    assert done.returncode == 2 and "must have standard among them" in done.stderr


def test_queries_smoke(trained, tmp_path, capsys, monkeypatch):
    words = ("smoke", "--run", trained, "--no-peers", "--out", tmp_path / "lines.jsonl")
    done = scripts.call(capsys, monkeypatch, "benchmarks.queries", *words)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "lines.jsonl").read_text())["results"]
    blind = [row for row in rows if row["attack"] != "fmn, with gradients"]
    assert {row["attack"] for row in blind} >= {
        "hop_skip_jump",
        "geoda",
        "rays",
        "boundary_attack",
        "sign_opt",
    }
    assert {row["queries"] for row in blind} == {5, 12}
    known = [[np.inf if v is None else v for v in (*row["interval"], row["median"])] for row in rows]
    assert all(low <= middle <= high for low, high, middle in known)


@pytest.mark.parametrize(
    "words, message",
    [
        ((), "--run is missing"),
        (("--run", "there", "--eps", "0.3"), "--eps has 1 values, must have 2"),
        (("--run", "there", "--queries", "50", "20"), "must rise"),
    ],
)
def test_queries_refuses_what_makes_no_table(words, message, capsys, monkeypatch):
    done = scripts.call(capsys, monkeypatch, "benchmarks.queries", "smoke", *words)
    assert done.returncode == 2 and message in done.stderr


@pytest.mark.oracle
@pytest.mark.parametrize("name", peers.NETWORKS)
def test_peers_are_the_same_function(name):
    torch = pytest.importorskip("torch")
    dataset, shape = ("cifar10", (32, 32, 3)) if name == "resnet18" else ("mnist", (28, 28, 1))
    model = model_names.classifier(name, dataset=dataset, classes=10, shape=shape)
    params, state = model.init(jax.random.key(0))
    draw = np.random.default_rng(0)
    state = jax.tree.map(lambda a: jnp.asarray(draw.uniform(0.5, 1.5, a.shape), jnp.float32), state)
    x = draw.uniform(size=(2, *shape)).astype(np.float32)
    net = peers.network(name, params, state, model_names.NORMALISATIONS.get(dataset))
    with torch.no_grad():
        theirs = net(torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))).numpy()
    np.testing.assert_allclose(model.apply(params, state, x)[0], theirs, atol=2e-4, rtol=1e-4)


@pytest.mark.oracle
def test_other_networks_have_no_peer():
    pytest.importorskip("torch")
    with pytest.raises(ValueError, match="no PyTorch network for 'mlp'"):
        peers.network("mlp", {}, {})


@pytest.mark.oracle
def test_both_sides_of_the_detector_attack_are_the_same_search():
    """On a linear network with two classes both end in the corner of the ball, and share their AUROC."""
    torch = pytest.importorskip("torch")
    draw = np.random.default_rng(0)
    kernel = draw.normal(size=(2, 16)).astype(np.float32)
    inside, outside = draw.uniform(0.3, 0.7, (2, 10, 4, 4, 1)).astype(np.float32)
    settings = {"eps": 0.02, "steps": 10, "size": 4}
    network = lambda w: lambda x: x.reshape(len(x), -1) @ w.T
    mine = score_attacks.ours(network, (jnp.asarray(kernel),), inside, outside, **settings)()
    layer = torch.nn.Linear(16, 2, bias=False)
    layer.weight = torch.nn.Parameter(torch.from_numpy(kernel))
    other = score_attacks.theirs(
        torch.nn.Sequential(torch.nn.Flatten(), layer), inside, outside, **settings
    )()
    np.testing.assert_allclose(mine.above, other.above, atol=1e-6)
    # The lead of a class moves by eps |w_0 - w_1|_1, and no image is so near to the border that it turns.
    lead = [np.abs(x.reshape(10, -1) @ (kernel[0] - kernel[1])) for x in (inside, outside)]
    reach = 0.02 * np.abs(kernel[0] - kernel[1]).sum()
    low = np.maximum(lead[0] - reach, 0)
    assert mine.above.mean() == pytest.approx(metrics.auroc(low, lead[1] + reach), abs=0.02)


def test_published_objectives_by_hand():
    """Probabilities (0.5, 0.3, 0.2), label 0: margins -0.2 of them and log 0.6 of the logits."""
    z, clean = jnp.log(jnp.array([[0.5, 0.3, 0.2]])), jnp.array([[0.9, 0.1, 0.0]])

    def at(loss, done, odd=False):
        now = white_box.Now(
            jnp.array([0]), jnp.array([2]), clean, jnp.array([[1.0, 0, 0]]), jnp.array([odd]), done
        )
        return float(loss(z, now)[0])

    margin = np.log(0.6)
    found = {
        "gama": [at(white_box.gama, done) for done in (0.0, 0.125, 0.25)],
        "pma": [at(white_box.pma, 0.4), at(white_box.pma, 0.4, True), at(white_box.pma, 0.6)],
        "md": [at(white_box.md, 0.4), at(white_box.md, 0.4, True), at(white_box.md, 0.6)],
        "odi": [at(white_box.odi, 0.0), at(white_box.odi, 0.2)],
    }
    moved = 0.4**2 + 0.2**2 + 0.2**2
    expected = {
        "gama": [-0.2 + 50 * moved, -0.2 + 25 * moved, -0.2],
        "pma": [-0.5, 0.3, -0.2],
        "md": [-np.log(0.5), np.log(0.3), margin],
        "odi": [np.log(0.5), margin],
    }
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5)


@pytest.mark.slow
def test_white_box_smoke(trained, tmp_path, capsys, monkeypatch):
    words = ("smoke", "--source.run", trained, "--out", tmp_path / "lines.jsonl")
    done = scripts.call(capsys, monkeypatch, "benchmarks.white_box", *words)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "lines.jsonl").read_text())["results"]
    assert {row["attack"] for row in rows} == set(white_box.CONTENDERS)
    assert {row["passes"] for row in rows} == {16}
    for row in rows:
        first, last = row["after runs"]["1"], row["after runs"]["2"]
        assert first >= last == row["robust %"] and row["missed"] >= 0
