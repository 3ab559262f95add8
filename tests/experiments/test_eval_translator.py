"""Random translators, copies and other gates from the command line, with networks that nobody trained."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scripts

from experiments.ood_to_id import evaluate, extra_measurements, run_folders
from experiments.ood_to_id import networks as translators
from robustjax.evaluation import gated_cases
from robustjax.models import small
from robustjax.ood.gates import Gate
from robustjax.ood.translate import Defence
from robustjax.types import Batch

SHAPE = (16, 16, 1)
RECIPE = translators.Recipe(width=8, steps=1)


@pytest.fixture
def folders(monkeypatch):
    """Open any folder as a system of a linear classifier and an untrained diffusion, drawn by the folder's name."""

    def opened(folder):
        seed = len(str(folder))
        models = (
            small.linear(classes=10, shape=SHAPE),
            translators.encoder_of(RECIPE, SHAPE),
            translators.translator_of("ddpm", RECIPE, SHAPE),
        )
        parts = [translators.Network(m, *jax.jit(m.init)(jax.random.key(seed))) for m in models]
        config = {"dataset": "digits", "seed": 0, "size": None, "kind": "ddpm", "recipe": {"eps": 0.2}}
        return run_folders.System(*parts, translators.purifier(parts[2], RECIPE, 0.3), config, {})

    monkeypatch.setattr(run_folders, "opened", opened)


def test_a_random_translator_is_attacked_by_draw_by_mean_and_through_a_copy(
    folders, tmp_path, capsys, monkeypatch
):
    one = gated_cases.transferred(2)[:1]  # of the same program as A1
    monkeypatch.setattr(gated_cases, "transferred", lambda steps: one)
    words = ["smoke", "--run", "a", "--copy", "ab", "--gate", "always", "--only", "PGD", "transfer", "A1"]
    words += ["--averaged-only", "A1"]
    done = scripts.call(capsys, monkeypatch, "ood_to_id.evaluate", *words, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    facts = json.loads((tmp_path / "results.json").read_text())
    assert [row["attack"][:2] for row in facts["attacks"]["fixed draw"]] == ["PG", "A1", "tr"]
    assert [row["attack"][:2] for row in facts["attacks"]["mean of 2 draws"]] == ["A1"]
    told = facts["submissions"]["fixed draw"]
    assert [row["images"][:5] for row in told] == ["clean", "PGD o", "A1 th", "trans", "worst"]
    # The draws of an image do not hang on its batch, whatever the mode.
    assert "depends on the batch" not in facts["headline"]
    columns = [[float(v.split()[0]) for v in list(row.values())[1:]] for row in told]
    assert all(single >= every for single, every, _ in columns)
    assert all(np.array(columns[-1]) <= np.min(columns[:-1], axis=0) + 1e-9)
    assert facts["abstaining"]["fixed draw"][-1]["images"] == "worst case"


def test_the_sibling_gate_compares_and_prints_no_number(folders, tmp_path, capsys, monkeypatch):
    words = ["smoke", "--run", "a", "--gate", "sibling", "--images", 20, "--batch-size", 20]
    done = scripts.call(capsys, monkeypatch, "ood_to_id.evaluate", *words, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "no robust accuracy: one decision for ten images" in done.stdout
    facts = json.loads((tmp_path / "results.json").read_text())
    assert [row["images"] for row in facts["sibling"]] == [
        "clean", "sign noise", "PGD on f", "PGD on f, one among nine clean",
    ]  # fmt: skip


def test_one_odd_image_among_nine_usual_ones_goes_where_they_go():
    """f reads a pixel, T turns it over, and the score is the pixel: all of it can be counted by hand."""

    def f(x):
        return jnp.stack([0.5 - x[:, 0, 0, 0], x[:, 0, 0, 0] - 0.5], axis=1)

    gate = Gate(lambda x: -x[:, 0, 0, 0], jnp.float32(-0.5))
    test = Batch(jnp.full((20, 2, 2, 1), 0.2), jnp.zeros(20, jnp.int32))
    rows = extra_measurements.sibling_rows(
        Defence(f, lambda keys, x: 1.0 - x, gate), test, {"odd": 0.9 + 0 * test.image}, 0.1
    )
    alone, tens, mixed = rows[0], rows[2], rows[3]
    assert alone["routed %, each alone"] == alone["routed %, by tens"] == "0.0"
    assert tens["routed %, each alone"] == tens["routed %, by tens"] == "100.0"
    assert mixed["routed %, each alone"] == "100.0" and mixed["routed %, by tens"] == "0.0"
    assert mixed["defence %, each alone"][:5] == "100.0" and mixed["defence %, by tens"][:3] == "0.0"


def test_settings_are_checked():
    for words, given in (
        ("--passes is -1", {"passes": -1}),
        (
            "--gate sibling goes with --run",
            {"gate": "sibling", "run": None, "function": "a:b", "dataset": "digits", "eps": 0.1},
        ),
    ):
        with pytest.raises(ValueError, match=words):
            evaluate.Config(**given).check()
