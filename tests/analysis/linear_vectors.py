"""The golden numbers of linear_vectors.json, and the models they speak of."""

import json
import pathlib

import numpy as np

from robustjax.analysis.linear.gaussian import Gaussian, gaussian
from robustjax.analysis.linear.pair import pair

CASES = json.loads((pathlib.Path(__file__).parent / "linear_vectors.json").read_text())["cases"]
KIND = {"1": "l1", "2": "l2", "inf": "linf"}
KINDS = ["l1", "l2", "linf"]
ORDER = {"l1": 1, "l2": 2, "linf": np.inf}  # of the budget
DUAL = {"l1": np.inf, "l2": 2, "linf": 1}


def cases(kind: str) -> list:
    """(inputs, expected, atol) of every case of a kind."""
    found = [(c["inputs"], c["expected"], c["atol"]) for c in CASES if c["kind"] == kind]
    assert found
    return found


def model_of(inputs: dict, **changes) -> Gaussian:
    """Build the model a case speaks of."""
    given = inputs | changes
    if "a" in given:
        return pair(**{name: given[name] for name in ("a", "b", "rho", "beta", "sigma")})
    if "Sigma" in given:
        return gaussian(given["Sigma"], given["wstar"], given["sigma"], core=3)
    if "corr_each" in given:
        r, b = given["corr_each"], given["b"]
        return gaussian([[1, 0, r * b], [0, 1, r * b], [r * b, r * b, b * b]], [1, 1, 0], 0.5, core=2)
    scale = np.array(given["scale"])
    covariance = np.array(given["corr"]) * np.outer(scale, scale)
    return gaussian(covariance, given["wstar"], given["sigma"], core=given["n_core"])


def random_model(
    rng: np.random.Generator, sizes: tuple[int, int] | None = None, *, sigma: float | None = None
) -> Gaussian:
    """Draw core and spurious features, 1 to 4 of each by default, correlated, of scales about 1."""
    core, spurious = sizes or (int(n) for n in rng.integers(1, 5, size=2))
    m = core + spurious
    root = rng.normal(size=(m, m + 2))
    scale = np.exp(0.5 * rng.normal(size=m))
    covariance = (root @ root.T / m + 0.1 * np.eye(m)) * np.outer(scale, scale)
    noise = float(rng.uniform(0.1, 1.0)) if sigma is None else sigma
    return gaussian(covariance, np.r_[rng.normal(size=core), np.zeros(spurious)], noise, core=core)
