"""The whole question on the digits, with small networks that nobody trained: every part, every check."""

import json

import jax
import numpy as np
import pytest
import scripts

from experiments.ood_to_id import config, networks
from robustjax.runtime.snapshot import in_bytes

SMALL = {"classifier": "linear", "width": 2, "depth": 2}


def untrained(seed):
    """Draw the networks of a seed in the form in which the script keeps trained ones."""
    recipe, shape = config.Recipe(**SMALL), (16, 16, 1)
    models = {
        "classifier": networks.classifier_of(recipe, "digits", 10, shape),
        "encoder": networks.encoder_of(recipe, shape),
        "translator": networks.translator_of("pix2pix", recipe, shape),
    }
    models |= {"natural": models["translator"], "robust": models["classifier"]}
    arrays = {"cpu_seconds": np.zeros(())}
    for name, model in models.items():
        for i, leaf in enumerate(jax.tree.leaves(jax.jit(model.init)(jax.random.key(seed)))):
            arrays[f"{name}/{i:03d}"] = np.asarray(leaf)
    return arrays


@pytest.mark.slow
def test_the_digits_leave_a_report_with_every_check(tmp_path, capsys, monkeypatch):
    (tmp_path / "parts").mkdir()
    for seed in (0, 1):
        (tmp_path / "parts" / f"trained_{seed}.npz").write_bytes(in_bytes(untrained(seed)))
    words = ["smoke", *(w for name, value in SMALL.items() for w in (f"--recipe.{name}", value))]
    done = scripts.call(capsys, monkeypatch, "ood_to_id.defence", *words, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    facts = json.loads((tmp_path / "results.json").read_text())
    assert {row["check"].split()[0] for row in facts["checks"]} == {str(i) for i in range(1, 15)}
    assert all(row["paper"] == "n/a" for row in facts["main"])
    report = (tmp_path / "report.html").read_text()
    assert "no robust accuracy" in report and "data:image/png;base64" in report
    with np.load(tmp_path / "parts" / "adaptive_0.npz") as kept:
        assert kept["paths/labels"] and np.isfinite(kept["margin"]).all()
