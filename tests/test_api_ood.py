"""The front door for detectors: closed forms, masked gradients seen, wrong input refused, killed and gone on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import robustjax
from robustjax import api_ood
from robustjax.models import small
from robustjax.ood import metrics
from robustjax.ood.detectors import ScoredNetwork

RNG = np.random.default_rng(0)
W = RNG.normal(size=16).astype(np.float32)
ID = RNG.uniform(0.3, 0.7, size=(20, 4, 4, 1)).astype(np.float32)
OOD = RNG.uniform(0.3, 0.7, size=(24, 4, 4, 1)).astype(np.float32)
SHORT = {"steps": 5, "queries": 200, "batch_size": 32}  # one size of batches, one program for each attack
CASES = ("clean", "OOD attacked", "ID attacked", "both attacked")


def linear(x):
    return x.reshape(len(x), -1) @ jnp.asarray(W)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_linear_score_falls_and_rises_by_the_dual_norm_times_the_radius(norm):
    eps = 0.05
    found = robustjax.evaluate_ood(
        linear, ID, OOD, norm=norm, eps=eps, masking=False, steps=20, queries=200, batch_size=32
    )
    move = eps * np.linalg.norm(W, ord=1 if norm == "linf" else 2)
    a, b = (x.reshape(len(x), -1) @ W for x in (ID, OOD))
    exact = [metrics.auroc(a - move * d, b + move * u) for d, u in ((0, 0), (0, 1), (1, 0), (1, 1))]
    values = [found.estimate("AUROC", case).value for case in CASES]
    np.testing.assert_allclose(values, exact, atol=0.005)
    assert found.clean.value == values[0] and found.both_attacked.value == values[3]
    assert found.ood_attacked.value == values[1] and found.id_attacked.value == values[2]
    fpr, aupr = (found.estimate(m, "both attacked").value for m in ("FPR95", "AUPR"))
    np.testing.assert_allclose(
        [fpr, aupr], [metrics.fpr_id95(a - move, b + move), metrics.aupr_in(a - move, b + move)], atol=0.05
    )
    low, value, high = found.clean.low, found.clean.value, found.clean.high
    assert low < value < high
    lines = repr(found).splitlines()
    assert 7 <= len(lines) <= 12 and f"{values[3]:.3f}" in lines[2] and "square" in repr(found)


def masked(x):
    """A plateau below a mean of 0.55, as training against attacks leaves one: no slope, and a cliff behind it."""
    return 10 * jax.nn.relu(x.mean(axis=(1, 2, 3)) - 0.55)


def flat(mean, count=20):
    return np.full((count, 4, 4, 1), mean, np.float32) + RNG.uniform(
        -0.01, 0.01, size=(count, 4, 4, 1)
    ).astype("f4")


@pytest.mark.slow
def test_masked_gradients_are_overcome_and_said():
    """ID score 10 * .05; OOD images of mean .48 can reach .58, a score of 10 * .03, and of mean .52 beyond ID: .07."""
    near = robustjax.evaluate_ood(masked, flat(0.60), flat(0.52), eps=0.1, **SHORT)
    assert near.clean.value == 1.0
    assert near.ood_attacked.value == 0.0  # any point of mean .62 scores .7 > .5 + .1
    assert near.results.worst[~near.results.is_id].min() > 0.6
    by_gradient = near.results.scores[near.results.attacks.index("apgd-score")][~near.results.is_id]
    assert by_gradient.max() == 0.0
    raised = {flag.name for flag in near.flags if flag.raised}
    assert {"black box ahead on OOD", "saturation on OOD", "larger radius on OOD"} <= raised
    assert "warning: black box ahead on OOD" in repr(near)
    far = robustjax.evaluate_ood(masked, flat(0.60), flat(0.48), eps=0.1, masking=False, **SHORT)
    assert far.ood_attacked.value == 1.0  # reaches .3 + .1 at most, below .5 - .1


@pytest.mark.slow
def test_a_smooth_score_raises_no_flag():
    found = robustjax.evaluate_ood(linear, ID, OOD, eps=0.05, steps=20, queries=200, batch_size=32)
    assert found.flags and not [flag.name for flag in found.flags if flag.raised]
    assert f"none of {len(found.flags)} raised" in repr(found)


@pytest.mark.slow
def test_a_network_is_scored_by_its_probability_and_attacked_at_every_class():
    model = small.mlp(classes=2, shape=(4, 4, 1), widths=(3,))
    params, state = model.init(jax.random.key(0))
    network = robustjax.Network(model, params, state, {})
    found = robustjax.evaluate_ood(network, ID, {"a": OOD, "b": OOD[:9]}, eps=0.1, masking=False, **SHORT)
    assert found.results.attacks == ("apgd-score", "apgd-uniform", "apgd-entropy", "apgd-class", "square")
    p = np.asarray(jax.nn.softmax(network.logits_fn(jnp.asarray(ID))))
    odds = np.log(p.max(axis=1) / (1 - p.max(axis=1)))
    np.testing.assert_allclose(found.results.clean[:20], odds, atol=1e-4)
    each = [found.estimate("AUROC", "clean", of=name).value for name in ("a", "b")]
    assert found.clean.value == pytest.approx(np.mean(each)) and "mean" in repr(found)
    alone = robustjax.evaluate_ood(network, ID, {"b": OOD[:9]}, eps=0.1, masking=False, **SHORT)
    np.testing.assert_allclose(
        alone.results.worst[20:], found.results.worst[44:], atol=1e-4
    )  # compiles nothing


@pytest.mark.slow
def test_a_random_score_is_said_and_one_that_looks_at_its_batch_refused():
    draws = np.random.default_rng(0)
    found = robustjax.evaluate_ood(lambda x: linear(x) + draws.normal(), ID, OOD, eps=0.05, **SHORT)
    assert "random scores" in {flag.name for flag in found.flags if flag.raised}
    with pytest.raises(ValueError, match="when other images in its batch change"):
        robustjax.evaluate_ood(lambda x: linear(x) - linear(x).mean(), ID, OOD, eps=0.05, **SHORT)
    with pytest.raises(ValueError, match="NaN or infinity for each"):
        robustjax.evaluate_ood(lambda x: linear(x) * jnp.nan, ID, OOD, eps=0.05, **SHORT)


@pytest.mark.slow
def test_killed_it_goes_on_and_another_score_does_not_take_it_up(tmp_path, monkeypatch):
    monkeypatch.setattr(
        api_ood.score_suite, "score_suite", lambda *a, **k: lambda *args, memory, **more: _kill(memory)
    )
    with pytest.raises(KeyboardInterrupt):
        robustjax.evaluate_ood(linear, ID, OOD, eps=0.05, masking=False, out=tmp_path, **SHORT)
    assert len(list(tmp_path.glob("progress_*.npz"))) == 1
    monkeypatch.undo()
    other = robustjax.evaluate_ood(
        lambda x: -linear(x), ID, OOD, eps=0.05, masking=False, out=tmp_path, **SHORT
    )
    assert other.clean.value == pytest.approx(1 - metrics.auroc(*(np.asarray(linear(x)) for x in (ID, OOD))))
    assert (tmp_path / "results.npz").exists() and (tmp_path / "results.json").exists()


def _kill(memory):
    memory.write({"anything": np.zeros(1)})
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"id_images": 255 * ID}, "divide them by 255"),
        ({"ood_images": {"svhn": 255 * OOD}}, "svhn: pixels range"),
        ({"ood_images": {"svhn": np.zeros((3, 5, 5, 1), np.float32)}}, "as the ID images"),
        ({"ood_images": {}}, "at least one set"),
        ({"ood_images": {"ID": OOD}}, "another name"),
        ({"eps": 8}, "eps / 255"),
        ({"norm": "l0"}, "norm is 'l0'"),
        ({"score": lambda x: x.reshape(len(x), -1)}, "pass a Network"),
        ({"score": lambda x: x.sum()}, "one number an image"),
        ({"score": lambda x: np.asarray(x).sum(axis=(1, 2, 3))}, "JAX traces"),
        ({"score": lambda x: jnp.ones(len(x), jnp.int32)}, "floating-point"),
        ({"score": 3}, "must be a function"),
        ({"score": ScoredNetwork(linear, lambda x: linear(x)[:, None])}, "at least two classes"),
        ({"queries": 10}, "must be at least 200"),
        ({"steps": 0}, "steps is 0"),
    ],
)
def test_wrong_input_is_one_line_before_any_work(change, says):
    given = {"score": linear, "id_images": ID, "ood_images": OOD, "eps": 0.1} | change
    with pytest.raises(ValueError, match=says) as caught:
        robustjax.evaluate_ood(given.pop("score"), given.pop("id_images"), given.pop("ood_images"), **given)
    assert "\n" not in str(caught.value)
