"""The benchmark of from_torch runs both sides, which compute the same."""

import json

import numpy as np
import pytest
import scripts


def test_it_needs_torch_and_says_so(capsys, monkeypatch):
    module = pytest.importorskip("experiments.benchmarks.torch_adapter")
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    done = scripts.call(capsys, monkeypatch, "benchmarks.torch_adapter", "smoke")
    assert done.returncode == 2 and "pip install -e '.[torch]'" in done.stderr


@pytest.mark.oracle
def test_both_sides_take_the_same_steps(tmp_path, capsys, monkeypatch):
    pytest.importorskip("torch")
    from experiments.benchmarks import torch_adapter

    module = torch_adapter.built("convnet_small", 0)
    x = np.random.default_rng(0).uniform(size=(2, 28, 28, 1)).astype(np.float32)
    given = module, x, np.array([1, 2], np.int32), 2
    theirs, ours = torch_adapter.alone(*given), torch_adapter.adapted(*given)
    np.testing.assert_allclose(ours["logits"](), theirs["logits"]().numpy(), rtol=1e-4, atol=1e-5)
    moved = theirs["2 steps"]().numpy().transpose(0, 2, 3, 1)
    assert np.mean(np.abs(ours["2 steps"]() - moved) > 1e-4) < 0.01

    done = scripts.call(capsys, monkeypatch, "benchmarks.torch_adapter", "smoke", "--out", tmp_path / "a")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads((tmp_path / "a").read_text())["results"]
    assert set(row["ratio"]) == {"logits", "gradient", "2 steps"}
