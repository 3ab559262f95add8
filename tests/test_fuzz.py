"""Whatever is given to an entrance: a right result or one line, never a traceback from jax, never a wrong number.

Inputs are valid ones with faults, alone and several at once. A result counts as right if it is that of the closed form
of a linear network, on the images that were meant.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import robustjax
from robustjax import api, api_ood, logit
from robustjax.attacks import autoattack, compose, objectives
from robustjax.attacks.pgd import pgd
from robustjax.evaluation import suite
from robustjax.smoothing.noise import in_pixels
from robustjax.smoothing.votes import votes
from robustjax.threats import Threat
from robustjax.types import Model, Network

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
X = RNG.uniform(0.3, 0.7, size=(6, 2, 2, 1)).astype(np.float32)  # no ball of radius 0.3 leaves the box
Y = np.array([0, 1, 0, 1, 1, 0])
W = RNG.normal(size=(4, 2)).astype(np.float32)


def apply(params, state, x, *, train=False, key=None):
    return (x.reshape(x.shape[0], -1) - 0.5) @ params, state


MODEL = Model(lambda key: (W, {}), apply, lambda params, state, x: {})
NETWORK = Network(
    MODEL, jnp.asarray(W), {}, {}
)  # with its weights as arguments, so that programs are compiled once


def linear(x):
    return apply(jnp.asarray(W), {}, x)[0]


def short(threat, classes):
    return (autoattack.apgd_ce(threat, steps=3),)


@pytest.fixture(scope="module", autouse=True)
def short_suite():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(api.SUITES, "standard", short)
        patch.setattr(api_ood.score_suite, "score_suite", passed)
        yield


class Passed(Exception):
    """Every check was passed; what comes then is for tests of its own."""


def passed(*arguments, **settings):
    raise Passed


# --- entrances: each takes network, x, y, eps, norm and seed, and returns what is checked ---


def evaluated(network, x, y, eps, norm, seed):
    found = robustjax.evaluate(network, x, y, eps=eps, norm=norm, seed=seed, masking=False)
    return {"clean": found.clean.value, "robust": found.robust.value}


def run_suite(network, x, y, eps, norm, seed):
    fn = network.logits_fn if isinstance(network, Network) else network
    found = suite.over(lambda: fn, lambda t: short(t, 2))(KEY, x, y, Threat(norm, eps))
    return {"clean": (found.clean == found.label).mean(), "robust": found.robust.mean()}


def certified(network, x, y, eps, norm, seed):
    found = robustjax.certify(network, x, y, sigma=eps, n0=4, n=12, batch_size=16, seed=seed)
    return {"clean": found.clean.value, "radius": found.certificate}


def bounded(network, x, y, eps, norm, seed):
    found = robustjax.certify_bounds(network, x, y, eps=eps, norm=norm)
    return {"clean": found.clean.value, "at least": found.accuracy(float(eps)).value}


def attacked(network, x, y, eps, norm, seed):
    fn = network.logits_fn if isinstance(network, Network) else network
    threat = Threat(norm, eps)
    attack = compose.against(pgd(threat, steps=3, step_size=threat.eps), objectives.cross_entropy)
    found = attack(KEY, fn, x, y)
    assert threat.contains(found.x, x).all()
    y = jnp.asarray(y, jnp.int32)
    return {name: float(logit.correct(fn(z), y).mean()) for name, z in (("clean", x), ("robust", found.x))}


def counted(network, x, y, eps, norm, seed):
    fn = network.logits_fn if isinstance(network, Network) else network
    counts = np.asarray(votes(fn, in_pixels(eps), classes=2, chunk_size=8)(KEY, x, 8))
    return {"votes": counts}


def detected(network, x, y, eps, norm, seed):
    with pytest.raises(Passed):
        robustjax.evaluate_ood(network, x, X, eps=eps, norm=norm, seed=seed)
    return {}


ENTRANCES = {
    "evaluate": evaluated, "evaluate_ood": detected, "suite.over": run_suite, "certify": certified,
    "certify_bounds": bounded, "votes": counted, "against": attacked,
}  # fmt: skip


# --- faults: of one argument ---


class Strange:
    """No array and no function."""


NETWORKS = {
    "one logit": lambda x: linear(x)[:, :1],
    "a vector": lambda x: linear(x)[:, 0],
    "a tuple": lambda x: (linear(x), x),
    "a dict": lambda x: {"logits": linear(x)},
    "a list": lambda x: [linear(x)],
    "numpy inside": lambda x: np.asarray(x).reshape(len(x), -1) @ W,
    "numpy matrix": W,
    "NaN everywhere": lambda x: linear(x) * jnp.nan,
    "NaN somewhere": lambda x: jnp.where(x[:, :1, 0, 0] > 0.5, jnp.nan, linear(x)),
    "integers": lambda x: jnp.rint(linear(x)).astype(int),
    "classes": lambda x: linear(x).argmax(axis=1),
    "booleans": lambda x: linear(x) > 0,
    "complex": lambda x: linear(x).astype(complex),
    "16 bits": lambda x: linear(x).astype(jnp.bfloat16),
    "summed over the batch": lambda x: linear(x).sum(axis=0, keepdims=True),
    "less rows": lambda x: linear(x)[:2],
    "more rows": lambda x: jnp.concatenate([linear(x)] * 2),
    "more axes": lambda x: linear(x)[..., None],
    "images": lambda x: x,
    "none": lambda x: None,
    "a number": lambda x: float(linear(x).sum()),
    "a key error": lambda x: {}["weights"],
    "a division": lambda x: 1 / 0,
    "an attribute": lambda x: jnp.linalg.foo(x),
    "a wrong matrix": lambda x: x @ jnp.ones((7, 2)),
    "channels first": lambda x: linear(x.transpose(0, 3, 1, 2)[:, :3]),
    "two arguments": lambda x, y: linear(x),
    "no argument": lambda: None,
    "a function": linear,
    "no function": None,
    "a name": "network",
    "an object": Strange(),
    "a model": MODEL,
}
FAULTS = {
    "x": [
        X[0], X[..., None], X.reshape(6, 4), X[:0], np.zeros((6, 3, 8, 8), np.float32),
        255 * X, X - 0.5, -X, np.where(X > 0.6, np.nan, X), np.where(X > 0.6, np.inf, X), (255 * X).astype(np.uint8),
        (255 * X).astype(np.int64), X > 0.5, X.astype(complex), X.astype(str), X.astype(object), X.tolist(), None,
        "images", Strange(), X.astype(np.float64), X.astype(np.float16), jnp.asarray(X), jnp.asarray(X, jnp.bfloat16),
        X[:5], np.repeat(X, 2, axis=3),
    ],
    "y": [
        Y + 1, Y - 1, Y + 0.5, Y.astype(float), np.eye(2)[Y], Y[:, None], Y[:5], Y[:0], Y > 0, Y.astype(str), Y + 2**32,
        Y.tolist(), None, 1, np.where(Y > 0, np.nan, 0), Y.astype(np.uint8), jnp.asarray(Y), Strange(), Y + 1j, Y + 7,
    ],
    "eps": [
        0, 0.0, -0.1, np.float32(-0.1), np.nan, np.inf, "8/255", 8, 1e9, None, [0.1], np.full(6, 0.1), True, 1j,
        Strange(), np.float32(0.1), jnp.float32(0.1), np.full((6, 1, 1, 1), 0.1), 1,
    ],
    "norm": ["l2", "Linf", "inf", 2, None, np.inf, ["linf"]],
    "network": list(NETWORKS.values()),
    "seed": [2**63 - 1, -1, 0.5, None, "0", True, np.nan, [1], np.int64(3), Strange()],
}  # fmt: skip
# Which arguments an entrance takes, and networks that are legal functions, each of which it would compile.
TAKES = {
    "evaluate": {"network", "x", "y", "eps", "norm", "seed"},
    "evaluate_ood": {"network", "x", "eps", "norm", "seed"},
    "suite.over": {"network", "x", "y", "eps", "norm"},
    "certify": {"network", "x", "y", "eps", "seed"},
    "certify_bounds": {"network", "x", "y", "eps", "norm"},
    "votes": {"network", "x", "eps"},
    "against": {"network", "x", "y", "eps", "norm"},
}
LEGAL = {"NaN everywhere", "NaN somewhere", "16 bits", "channels first", "a function"}


def single(entrance):
    """List the faults of an entrance, one at a time."""
    for name in sorted(TAKES[entrance]):
        for i, fault in enumerate(FAULTS[name]):
            legal = name == "network" and list(NETWORKS)[i] in LEGAL
            if not legal or entrance in ("certify_bounds", "votes") or fault is NETWORKS["NaN somewhere"]:
                yield name, i


def meant(given):
    """The images, labels and radius as a reader of the documentation would take them."""
    x = np.asarray(given["x"], np.float64) / (255 if np.asarray(given["x"]).dtype == np.uint8 else 1)
    return x.reshape(len(x), -1), np.asarray(given["y"]).astype(int), float(np.ravel(given["eps"])[0])


def check(given, found):
    """Compare a result with the closed form of the linear network."""
    network = given["network"]
    if "votes" in found:
        lost = network is NETWORKS["NaN everywhere"] or network is NETWORKS["NaN somewhere"]
        assert lost or (found["votes"].sum(axis=1) == 8).all()
    if "clean" not in found:
        return
    x, y, eps = meant(given)
    if network is NETWORKS["NaN somewhere"]:
        assert found.get("robust", 0) <= (x[:, 0] <= 0.5).mean() + 1e-9
        return
    if network is NETWORKS["NaN everywhere"]:
        assert found["clean"] == 0 and found.get("robust", 0) == 0 and found.get("at least", 0) == 0
        return
    slope = (W[:, 1] - W[:, 0]).astype(np.float64)
    lead = np.where(y == 1, 1, -1) * ((x - 0.5) @ slope)
    sure = np.abs(lead) > 0.02 * np.abs(slope).sum()  # of images in 16 bits
    dual = {"linf": np.abs(slope).sum(), "l2": np.sqrt((slope**2).sum())}[str(given["norm"])]
    if sure.all():
        assert found["clean"] == pytest.approx((lead > 0).mean())
    close = np.abs(lead - eps * dual) < 0.02 * dual
    if eps <= 0.3 and not close.any():
        for name in ("robust", "at least"):
            if name in found:
                assert found[name] == pytest.approx((lead > eps * dual).mean()), name
    if "radius" in found:
        certificate = found["radius"]
        assert (certificate.radius <= np.abs(lead) / np.linalg.norm(slope) + 0.01)[
            certificate.label >= 0
        ].all()


def tried(entrance, given):
    """Run an entrance; a refusal must be one line."""
    try:
        with jax.numpy_dtype_promotion("standard"):
            found = ENTRANCES[entrance](**given)
    except ValueError as error:
        said = str(error)
        assert said and "\n" not in said and len(said) < 400, said
        return None
    check(given, found)
    return found


VALID = {"network": NETWORK, "x": X, "y": Y, "eps": 0.1, "norm": "linf", "seed": 0}


@pytest.mark.parametrize("entrance", ENTRANCES)
def test_valid_input_gives_the_closed_form(entrance):
    for eps in (0.02, 0.1, 0.25):
        assert tried(entrance, VALID | {"eps": eps}) is not None


@pytest.mark.slow
@pytest.mark.parametrize("entrance", ENTRANCES)
def test_one_fault_is_one_line_or_a_right_result(entrance):
    for name, i in single(entrance):
        try:
            tried(entrance, VALID | {name: FAULTS[name][i]})
        except Exception as error:
            raise AssertionError(f"{name} fault {i}: {type(error).__name__}: {error}") from error


@settings(
    max_examples=40,
    phases=[Phase.generate],
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
@given(
    entrance=st.sampled_from(sorted(ENTRANCES)),
    faults=st.dictionaries(st.sampled_from(sorted(FAULTS)), st.integers(0, 100), min_size=2, max_size=4),
)
def test_several_faults_are_one_line_or_a_right_result(entrance, faults):
    given = {n: FAULTS[n][i % len(FAULTS[n])] for n, i in faults.items() if n in TAKES[entrance]}
    tried(entrance, VALID | given)


# --- networks with a state ---


def normalised(params, state, x, *, train=False, key=None):
    """Standardise images by their batch in train mode, by what is stored in evaluation mode."""
    mean = x.mean(axis=0) if train else state["mean"]
    return (x - mean).reshape(x.shape[0], -1) @ params, {"mean": mean}


def always_training(params, state, x, *, train=False, key=None):
    return normalised(params, state, x, train=True)


STATE = {"mean": jnp.full(X.shape[1:], 0.5)}


@pytest.mark.parametrize("entrance", ["evaluate", "evaluate_ood", "certify", "certify_bounds"])
def test_statistics_of_the_batch_are_refused_and_stored_ones_are_the_closed_form(entrance):
    """The stored mean is that of the linear network above."""
    stored = Network(MODEL._replace(apply=normalised), jnp.asarray(W), STATE, {})
    assert tried(entrance, VALID | {"network": stored}) is not None
    mode = Network(MODEL._replace(apply=always_training), jnp.asarray(W), STATE, {})
    for network in (mode, mode.logits_fn):
        if entrance == "evaluate_ood" and not isinstance(network, Network):
            network = lambda x: mode.logits_fn(x).max(axis=1)
        with pytest.raises(ValueError, match="when other images in its batch change") as caught:
            ENTRANCES[entrance](**(VALID | {"network": network}))
        assert "put the network in evaluation mode" in str(caught.value) and "\n" not in str(caught.value)
