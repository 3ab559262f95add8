"""JSON without bare NaN, which the standard does not know; settings come back as they were."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

from robustjax.evaluation.results import Results
from robustjax.runtime import Run, open_run, read_metrics, result_files, strict_json


def strict(text):
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"bare {name}"))


def test_numbers_that_are_not_finite_become_null(tmp_path):
    value = {
        "a": [1.5, np.nan, (np.float32(np.inf), -np.inf)],
        "b": {"c": float("nan"), "d": np.int64(3)},
        "e": None,
    }
    expected = {"a": [1.5, None, [None, None]], "b": {"c": None, "d": 3}, "e": None}
    assert strict(strict_json.text(value)) == expected
    strict_json.write(tmp_path / "new" / "a.json", value)
    assert strict((tmp_path / "new" / "a.json").read_text()) == expected
    for _ in range(2):
        strict_json.append(tmp_path / "a.jsonl", value)
    assert [strict(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()] == [expected] * 2
    with pytest.raises(TypeError):
        strict_json.text(object())


@dataclasses.dataclass(frozen=True)
class Config:
    radius: float = float("inf")
    least: float = float("-inf")
    weights: tuple[float, ...] = (1.0, float("nan"))
    name: str = "inf"


def test_settings_that_are_not_finite_come_back_and_bind(tmp_path):
    with Run(tmp_path, Config()) as run:
        run.record(0, {"loss": jnp.float32(np.nan), "seen": np.array([1.0, -np.inf])})
    for line in ((tmp_path / "config.json").read_text(), (tmp_path / "metrics.jsonl").read_text()):
        strict(line)
    found = open_run(tmp_path, made_by="a test").settings(Config)
    assert (found.radius, found.least, found.name) == (np.inf, -np.inf, "inf")
    assert found.weights[0] == 1 and np.isnan(found.weights[1])
    assert read_metrics(tmp_path) == [{"step": 0, "loss": "nan", "seen": [1.0, "-inf"]}]
    Run(tmp_path, Config()).close()  # the same settings resume
    with pytest.raises(ValueError, match=r'radius: "inf" there, 1\.0 now'):
        Run(tmp_path, Config(radius=1.0))
    # Earlier versions wrote bare names.
    text = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(text.replace('"radius": "inf"', '"radius": Infinity'))
    Run(tmp_path, Config()).close()


def test_results_of_nan_networks_are_strict_json(tmp_path):
    nan = np.full(2, np.nan, np.float32)
    found = Results(
        attacks=("a",), index=np.arange(2), label=np.zeros(2, int), clean=np.array([-1, 0]),
        already=np.zeros(2, bool), outcome=np.array([[-1, 0]], np.int8), margin=nan[None],
        x=np.zeros((2, 1, 1, 1)), prediction=np.array([-1, 0]), value=nan, distance=nan, steps=np.ones(1),
        seconds=np.ones(1),
    )  # fmt: skip
    result_files.write(
        tmp_path, found, {"eps": float("inf"), "flags": [{"evidence": {"share": float("nan")}}]}
    )
    page = strict((tmp_path / "results.json").read_text())
    assert page["examples"][0]["margin"] is None and page["eps"] is None
    assert result_files.read(tmp_path)[1]["flags"] == [{"evidence": {"share": None}}]
