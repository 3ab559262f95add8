"""The zoo of translators and the table of attacks left out, with trainings and judgements played by others."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scripts

from experiments.ood_to_id import compare, pairs
from experiments.ood_to_id import networks as translators
from robustjax.models import small
from robustjax.types import Batch

SHAPE = (16, 16, 1)


def test_the_zoo_trains_judges_and_tabulates_what_is_missing(tmp_path, capsys, monkeypatch):
    """Two kinds of which one is random, two gates: every part once, with the sizes of its kind."""
    done = []

    def train(cfg):
        done.append((cfg.kind, cfg.recipe.steps, cfg.recipe.epochs))
        folder = pathlib.Path(cfg.out)
        (folder / "networks" / "classifier").mkdir(parents=True, exist_ok=True)
        (folder / "networks" / "encoder").mkdir(exist_ok=True)
        (folder / "system.json").write_text("{}")
        return 0

    def judge(cfg):
        done.append((pathlib.Path(cfg.out).name, cfg.gate, cfg.passes))
        modes = (
            ["fixed draw", "mean of 3 draws"][: 1 + bool(cfg.passes)]
            if "ddpm" in cfg.run
            else ["deterministic"]
        )
        row = {"found %": "50.0 (40.0 to 60.0)"}
        main = [
            row | {"quantity": name}
            for name in (
                "clean accuracy of f",
                "clean accuracy of the defence",
                "clean images routed",
                "TM0 static",
            )
        ]
        main.append({"quantity": "TM3 ADAPTIVE", "found %": "7.0 (5.0 to 9.0)"})
        attacks = [
            {"attack": "PGD on f", "threat model": "TM0", "accuracy %": "50.0 (40.0 to 60.0)"},
            {"attack": "A1 through translator", "threat model": "TM3", "accuracy %": "8.0 (5.0 to 9.0)"},
        ]
        votes = [{"images": "worst case", "majority": "30.0 (20.0 to 40.0)"}]
        facts = {
            "main": dict.fromkeys(modes, main), "attacks": dict.fromkeys(modes, attacks),
            "submissions": dict.fromkeys(modes, votes) if "ddpm" in cfg.run else {},
        }  # fmt: skip
        pathlib.Path(cfg.out).mkdir(parents=True)
        (pathlib.Path(cfg.out) / "results.json").write_text(json.dumps(facts))
        return 0

    monkeypatch.setattr(compare.train, "main", train)
    monkeypatch.setattr(compare.evaluate, "main", judge)
    words = ["digits", "--kinds", "dae", "ddpm", "--passes", 3, "--out", tmp_path]
    for _ in range(2):
        left = scripts.call(capsys, monkeypatch, "ood_to_id.compare", *words)
        assert left.returncode == 0, left.stderr
    assert done == [
        ("dae", 20, 24), ("dae_SSD", "SSD", 0), ("dae_always", "always", 3),
        ("ddpm", 5, 150), ("ddpm_SSD", "SSD", 0), ("ddpm_always", "always", 3),
    ]  # fmt: skip
    assert (tmp_path / "ddpm" / "networks" / "encoder").is_dir()
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert [(row["translator"], row["gate"], row["draws"]) for row in rows] == [
        ("dae", "SSD", "deterministic"), ("dae", "always", "deterministic"), ("ddpm", "SSD", "fixed draw"),
        ("ddpm", "always", "fixed draw"), ("ddpm", "always", "mean of 3 draws"),
    ]  # fmt: skip
    assert rows[0]["adaptive, worst case %"] == "7.0 (5.0 to 9.0)" and rows[0]["attacked with"] == "A1"
    assert rows[0]["strongest attack"] == "A1 through translator (8.0)"
    assert rows[0]["majority of draws, worst case %"] == "-" != rows[2]["majority of draws, worst case %"]


def test_what_is_left_out_is_not_trained_on(tmp_path, capsys, monkeypatch):
    seen = []
    model = small.linear(classes=10, shape=SHAPE)
    classifier = translators.Network(model, *jax.jit(model.init)(jax.random.key(0)))

    def train(pool, recipe, seed):
        seen.append(len(pool.image))
        kept = model._replace(apply=lambda params, state, x, **more: (x, state))
        return translators.Network(kept, *classifier[1:])

    monkeypatch.setattr(translators, "train_classifier", lambda *given, **more: classifier)
    monkeypatch.setattr(translators, "train_pix2pix", train)
    done = scripts.call(capsys, monkeypatch, "ood_to_id.leave_one_out", "smoke", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    # 32 images as they are, 32 under FGSM, and 16 under BIM, which gets a share of them.
    assert seen == [80, 48]
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert [row["T trained on"] for row in rows] == ["no translator", "all", "all but fgsm"]
    assert rows[2]["fgsm"].endswith("unseen") and not rows[2]["bim"].endswith("unseen")
    assert rows[0]["clean"] == rows[1]["clean"]  # this T is the identity


def test_pairs_are_made_anew_and_slow_attacks_get_a_share():
    model = small.linear(classes=10, shape=(4, 4, 1))
    classifier = translators.Network(model, *jax.jit(model.init)(jax.random.key(0)))
    batch = Batch(jax.random.uniform(jax.random.key(1), (20, 4, 4, 1)), jnp.arange(20) % 10)
    sets = translators.Sets(batch, batch, batch)
    recipe = translators.Recipe(attacks=("fgsm", "square"), shares=(1.0,), subset=(("square", 0.25),))
    first, again, anew = (
        pairs.views_of(sets, classifier, recipe, 0, turn=turn, batch_size=20) for turn in (0, 0, 1)
    )
    assert len(first.image) == 20 + 20 + 5
    np.testing.assert_array_equal(first.perturbed, again.perturbed)
    moved = np.abs(first.perturbed - anew.perturbed).max(axis=(1, 2, 3)) > 0
    assert not moved[:40].any() and moved[40:].any()  # FGSM draws nothing, Square does
    np.testing.assert_array_equal(first.image, anew.image)
    with pytest.raises(ValueError, match="must be an attack and a share"):
        dataclasses.replace(recipe, subset=(("square", 0.0),)).check()
