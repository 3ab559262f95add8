"""The comparison of translators and of attacks left out: what is trained on what, and how it is tabulated."""

import json
import pathlib

import jax
import pytest
import scripts

from experiments.ood_to_id import compare, config, networks
from experiments.ood_to_id.training import Trained
from robustjax.models import small
from robustjax.types import Network

SHAPE = (16, 16, 1)


def test_every_kind_has_sizes_of_its_own_unless_they_are_given():
    cfg = config.CompareConfig(samples=3)
    assert cfg.training("ddpm").recipe.epochs == 150 and cfg.training("dae").recipe.epochs == 24
    given = config.CompareConfig(recipe=config.Recipe(epochs=5))
    assert given.training("ddpm").recipe.epochs == given.training("dae").recipe.epochs == 5
    # The mean of draws only where no gate can be bypassed.
    assert cfg.evaluation("ddpm", "always").samples == 3 and cfg.evaluation("ddpm", "SSD").samples == 0
    with pytest.raises(ValueError, match="for comparison only"):
        config.CompareConfig(gates=("grouped",)).check()


def test_other_kinds_get_the_classifier_and_the_encoder_of_the_first(tmp_path, monkeypatch):
    cfg = config.CompareConfig(kinds=("dae", "ddpm"), out=str(tmp_path))
    for name in ("classifier", "encoder"):
        (tmp_path / "dae" / "networks" / name).mkdir(parents=True)

    def train_system(settings):
        return Trained(pathlib.Path(settings.out), [], {}, None, "all 1")

    class NoReport:
        def write(self, path): ...

    monkeypatch.setattr(compare, "train_system", train_system)
    monkeypatch.setattr(compare, "training_report", lambda *given: NoReport())
    compare.train(cfg, tmp_path, "ddpm")
    assert {path.name for path in (tmp_path / "ddpm" / "networks").iterdir()} == {"classifier", "encoder"}


def results(modes, votes):
    row = {"found %": "50.0 (40.0 to 60.0)"}
    names = ("clean accuracy of f", "clean accuracy of the defence", "clean images routed", "TM0 static")
    main = [row | {"quantity": name} for name in names]
    main.append({"quantity": "TM3 ADAPTIVE", "found %": "7.0 (5.0 to 9.0)"})
    attacks = [
        {"attack": "PGD on f", "threat model": "TM0", "accuracy %": "50.0 (40.0 to 60.0)"},
        {"attack": "A1 through translator", "threat model": "TM3", "accuracy %": "8.0 (5.0 to 9.0)"},
    ]
    votes_of_mode = [{"images": "worst case", "majority": "30.0 (20.0 to 40.0)"}]
    submissions = {mode: votes_of_mode for mode in modes}
    return {
        "main": dict.fromkeys(modes, main), "attacks": dict.fromkeys(modes, attacks),
        "submissions": submissions if votes else {}, "images": "all 9 images, SHA-256 0123",
    }  # fmt: skip


def test_what_is_finished_is_read_and_tabulated(tmp_path, capsys, monkeypatch):
    """Two kinds of which one is random, two gates, all parts finished before."""
    cfg = config.CompareConfig(kinds=("dae", "ddpm"), out=str(tmp_path))
    modes = {
        "dae_SSD": ["deterministic"], "dae_always": ["deterministic"], "ddpm_SSD": ["fixed draw"],
        "ddpm_always": ["fixed draw", "mean of 3 draws"],
    }  # fmt: skip
    for _, left, _ in compare.parts(cfg, tmp_path):
        left.parent.mkdir(parents=True, exist_ok=True)
        kind = left.parent.name
        left.write_text(json.dumps(results(modes.get(kind, []), kind.startswith("ddpm"))))
    seconds = {name: 1.0 for name, _, _ in compare.parts(cfg, tmp_path)}
    (tmp_path / "seconds.json").write_text(json.dumps(seconds))
    words = ["digits", "--kinds", "dae", "ddpm", "--out", tmp_path]
    done = scripts.call(capsys, monkeypatch, "ood_to_id.compare", *words)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert "Images: all 9 images, SHA-256 0123." in (tmp_path / "report.html").read_text()
    assert [(row["translator"], row["gate"], row["draws"]) for row in rows] == [
        ("dae", "SSD", "deterministic"), ("dae", "always", "deterministic"), ("ddpm", "SSD", "fixed draw"),
        ("ddpm", "always", "fixed draw"), ("ddpm", "always", "mean of 3 draws"),
    ]  # fmt: skip
    assert rows[0]["adaptive, worst case %"] == "7.0 (5.0 to 9.0)" and rows[0]["attacked with"] == "A1"
    assert rows[0]["strongest attack"] == "A1 through translator (8.0)"
    assert rows[0]["majority of draws, worst case %"] == "-" != rows[2]["majority of draws, worst case %"]


@pytest.mark.slow
def test_what_is_left_out_is_not_trained_on(tmp_path, capsys, monkeypatch):
    seen = []
    model = small.linear(classes=10, shape=SHAPE)
    classifier = Network(model, *jax.jit(model.init)(jax.random.key(0)), {})

    def train(pool, recipe, seed):
        seen.append(len(pool.image))
        kept = model._replace(apply=lambda params, state, x, **more: (x, state))
        return classifier._replace(model=kept)

    monkeypatch.setattr(networks, "train_classifier", lambda *given, **more: classifier)
    monkeypatch.setattr(networks, "train_pix2pix", train)
    done = scripts.call(capsys, monkeypatch, "ood_to_id.leave_one_out", "smoke", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    # 32 images as they are, 32 under FGSM, and 16 under BIM, which gets a share of them.
    assert seen == [80, 48]
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert [row["T trained on"] for row in rows] == ["no translator", "all", "all but fgsm"]
    assert rows[2]["fgsm"].endswith("unseen") and not rows[2]["bim"].endswith("unseen")
    assert rows[0]["clean"] == rows[1]["clean"]  # this T is the identity
