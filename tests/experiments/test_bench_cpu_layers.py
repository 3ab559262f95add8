"""The benchmark of the CPU's forms of layers runs, and compares layers that are the same."""

import json

import jax
import numpy as np
import pytest
import scripts

from experiments.benchmarks import cpu_layers


@pytest.mark.parametrize("case", cpu_layers.cases(), ids=lambda case: case.name)
def test_both_sides_are_one_layer(case):
    x = jax.ShapeDtypeStruct((2, *case.x), np.float32)
    kernel = jax.ShapeDtypeStruct(case.kernel, np.float32)
    with jax.numpy_dtype_promotion("standard"):  # flax's average pooling divides by an integer
        assert jax.eval_shape(case.ours, x, kernel) == jax.eval_shape(case.plain, x, kernel)


def test_smoke(tmp_path, capsys, monkeypatch):
    few = cpu_layers.cases()[:1]
    monkeypatch.setattr(cpu_layers, "cases", lambda: few)
    done = scripts.call(
        capsys, monkeypatch, "benchmarks.cpu_layers", "smoke", "--out", tmp_path / "lines.jsonl"
    )
    assert done.returncode == 0, done.stderr
    (row,) = json.loads((tmp_path / "lines.jsonl").read_text())["results"]
    assert row["input_loop"] > 0 and row["name"] in done.stdout
