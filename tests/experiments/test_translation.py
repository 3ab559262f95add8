"""Judging translation systems from the command line: a run of one's own function, and the whole page of the digits."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import scripts

from experiments.ood_to_id import defence_networks
from experiments.ood_to_id import networks as translators
from robustjax.models import small, translator

OWN = """
import jax.numpy as jnp
from robustjax.ood.gates import gated
from robustjax.ood.translate import Defence

def f(x):
    return x.reshape(x.shape[0], -1) @ jnp.sin(jnp.arange(2560.0)).reshape(256, 10)

def defence():
    return Defence(f, lambda keys, x: 0.9 * x, gated(lambda x: -jnp.square(x).sum(axis=(1, 2, 3)), -60.0))
"""


def test_a_defence_of_ones_own_is_attacked_and_no_number_is_printed(tmp_path, capsys, monkeypatch):
    (tmp_path / "own_defence.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    words = [
        "smoke",
        "--run",
        "None",
        "--function",
        "own_defence:defence",
        "--dataset",
        "digits",
        "--eps",
        "0.2",
    ]
    done = scripts.call(capsys, monkeypatch, "ood_to_id.evaluate", *words, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert (
        "no robust accuracy: A2, A3, A4 not run; 8 examples, needs at least 200; it is not known"
        in done.stdout
    )
    facts = json.loads((tmp_path / "out" / "results.json").read_text())
    assert {row["quantity"][:3] for row in facts["main"]["deterministic"]} >= {"TM0", "TM3", "IDA"}
    assert (tmp_path / "out" / "report.html").stat().st_size > 5000
    wrong = scripts.call(capsys, monkeypatch, "ood_to_id.evaluate", "smoke", "--run", tmp_path / "nothing")
    assert wrong.returncode == 2 and "holds no finished run" in wrong.stderr


def test_the_digits_leave_a_page_with_every_check(tmp_path, capsys, monkeypatch):
    """With networks that nobody trained."""

    def classifier_of(recipe, dataset, classes, shape):
        return small.linear(classes=classes, shape=shape)

    def translator_of(kind, recipe, shape):
        return translator.autoencoder(shape=shape, widths=(2, 2))

    def drawn(build):
        def train(*given):
            model = build()
            return translators.Network(model, *model.init(jax.random.key(given[-1])))

        return train

    recipe, shape = translators.Recipe(), (16, 16, 1)
    classifier = drawn(lambda: small.linear(classes=10, shape=shape))
    encoder = drawn(lambda: translators.encoder_of(recipe, shape))
    monkeypatch.setattr(translators, "classifier_of", classifier_of)
    monkeypatch.setattr(translators, "translator_of", translator_of)
    monkeypatch.setattr(translators, "train_classifier", classifier)
    monkeypatch.setattr(translators, "train_encoder", encoder)
    monkeypatch.setattr(translators, "views_of", lambda *given: None)
    monkeypatch.setattr(translators, "train_pix2pix", drawn(lambda: translator_of(None, recipe, shape)))
    monkeypatch.setattr(defence_networks.Lab, "_robust", lambda self, f, sets, seed: f)
    done = scripts.call(capsys, monkeypatch, "ood_to_id.defence", "smoke", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    facts = json.loads((tmp_path / "results.json").read_text())
    assert {row["check"].split()[0] for row in facts["checks"]} == {str(i) for i in range(1, 15)}
    assert all(row["paper"] == "n/a" for row in facts["main"])
    page = (tmp_path / "report.html").read_text()
    assert "no robust accuracy" in page and page.count("data:image/png;base64") >= 5
    with np.load(tmp_path / "parts" / "adaptive_0.npz") as kept:
        assert kept["paths/labels"] and jnp.isfinite(kept["margin"]).all()
