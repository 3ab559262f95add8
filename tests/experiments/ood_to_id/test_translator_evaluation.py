"""Evaluating translation systems from the command line: random translators, the grouped gate, one's own defence."""

import json

import numpy as np
import pytest
import scripts

from experiments.ood_to_id import config, images
from experiments.shared import command_line
from robustjax import data
from robustjax.data import subsets
from robustjax.evaluation import gated_cases

OWN = """
import jax.numpy as jnp
from robustjax.ood.gates import gated
from robustjax.ood.translate import Defence

def f(x):
    return x.reshape(x.shape[0], -1) @ jnp.sin(jnp.arange(2560.0)).reshape(256, 10)

def defence():
    return Defence(f, lambda keys, x: 0.9 * x, gated(lambda x: -jnp.square(x).sum(axis=(1, 2, 3)), -60.0))
"""


def test_a_random_translator_is_attacked_by_draw_by_mean_and_by_transfer(
    random_system, tmp_path, capsys, monkeypatch
):
    one = gated_cases.transferred(2)[:1]  # of the same program as A1
    monkeypatch.setattr(gated_cases, "transferred", lambda steps: one)
    words = ["smoke", "--run", random_system, "--source", random_system, "--gate", "always"]
    words += ["--only", "PGD", "transfer", "A1", "--averaged-only", "A1"]
    done = scripts.call(capsys, monkeypatch, "ood_to_id.evaluate", *words, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    facts = json.loads((tmp_path / "results.json").read_text())
    assert [row["attack"][:2] for row in facts["attacks"]["fixed draw"]] == ["PG", "A1", "tr"]
    assert [row["attack"][:2] for row in facts["attacks"]["mean of 2 draws"]] == ["A1"]
    rows = facts["submissions"]["fixed draw"]
    assert [row["images"][:5] for row in rows] == ["clean", "PGD o", "A1 th", "trans", "worst"]
    # The draws of an image do not hang on its batch, whatever the mode.
    assert "depends on the batch" not in facts["headline"]
    columns = [[float(v.split()[0]) for v in list(row.values())[1:]] for row in rows]
    assert all(single >= every for single, every, _ in columns)
    assert all(np.array(columns[-1]) <= np.min(columns[:-1], axis=0) + 1e-9)
    assert facts["abstaining"]["fixed draw"][-1]["images"] == "worst case"
    assert f"if the defence answers by vote: {list(rows[-1].values())[-1]} %" in done.stdout


def test_the_grouped_gate_compares_and_prints_no_number(system, tmp_path, capsys, monkeypatch):
    words = ["smoke", "--run", system, "--gate", "grouped", "--images", 20, "--batch-size", 20]
    done = scripts.call(capsys, monkeypatch, "ood_to_id.evaluate", *words, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "no robust accuracy: one decision for ten images" in done.stdout
    facts = json.loads((tmp_path / "results.json").read_text())
    test = data.load("digits", "test")
    wanted = np.sort(test.index[subsets.batch_rows(images.load("digits", 0).test, 20)])
    assert sorted(facts["indices"]) == wanted.tolist() and "20 of 359" in facts["images"]
    assert [row["images"] for row in facts["grouped"]] == [
        "clean", "sign noise", "PGD on f", "PGD on f, one among nine clean",
    ]  # fmt: skip


@pytest.mark.slow
def test_a_defence_of_ones_own_is_attacked_and_no_number_is_printed(tmp_path, capsys, monkeypatch):
    (tmp_path / "own_defence.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    words = ["smoke", "--run", "None", "--function", "own_defence:defence", "--dataset", "digits"]
    words += ["--eps", "0.2", "--out", tmp_path / "out"]
    done = scripts.call(capsys, monkeypatch, "ood_to_id.evaluate", *words)
    assert done.returncode == 0, done.stderr
    assert (
        "no robust accuracy: A2, A3, A4 not run; 8 examples, needs at least 200; it is not known"
        in done.stdout
    )
    facts = json.loads((tmp_path / "out" / "results.json").read_text())
    assert {row["quantity"][:3] for row in facts["main"]["deterministic"]} >= {"TM0", "TM3", "IDA"}
    assert (tmp_path / "out" / "report.html").stat().st_size > 5000


def test_what_is_no_run_is_refused_in_one_line(tmp_path, capsys, monkeypatch):
    wrong = scripts.call(capsys, monkeypatch, "ood_to_id.evaluate", "smoke", "--run", tmp_path / "nothing")
    assert wrong.returncode == 2 and "holds no run of ood_to_id.train" in wrong.stderr


@pytest.mark.parametrize(
    ("words", "given"),
    [
        ("--samples is -1, must be at least 0", {"samples": -1}),
        ("--averaged-steps is 0, must be at least 1", {"averaged_steps": 0}),
        ("give one of them", {"function": "a:b"}),
        (
            "--gate grouped goes with --run",
            {"gate": "grouped", "run": None, "function": "a:b", "dataset": "digits", "eps": 0.1},
        ),
    ],
)
def test_settings_are_checked(words, given):
    with pytest.raises(ValueError, match=words):
        command_line.validate(config.EvaluateConfig(**given))
