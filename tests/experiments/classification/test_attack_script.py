"""Attack reports: any network, killed and resumed, in parts, continued; the files agree with one another."""

import importlib
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scripts

from experiments.classification import attack as attack_script
from experiments.classification import merge_reports
from experiments.classification.config import MergeConfig
from robustjax.attacks import autoattack
from robustjax.attacks.pgd import pgd_solver
from robustjax.catalog.attacks import ATTACKS
from robustjax.runtime import result_files
from robustjax.runtime.snapshot import Snapshot


@pytest.fixture
def attack(capsys, monkeypatch, trained):
    """Run the smoke preset in this process."""

    def run(out, *words, source=("--source.run", trained)):
        return scripts.call(
            capsys, monkeypatch, "classification.attack", "smoke", *source, "--out", out, *words
        )

    return run


def same(first, second):
    for name in ("attacks", "index", "label", "clean", "already", "outcome", "margin", "x", "value", "steps"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name), err_msg=name)


@pytest.mark.slow
def test_killed_and_resumed_the_report_is_the_same(attack, tmp_path, monkeypatch):
    assert attack(tmp_path / "whole").returncode == 0
    whole, about = result_files.read(tmp_path / "whole")
    page = json.loads((tmp_path / "whole" / "results.json").read_text())
    assert page["accuracy"] == result_files.rows(whole) and page["curve"] == about["curve"]
    assert [e["robust"] for e in page["examples"]] == whole.robust.tolist()
    assert whole.robust.mean() <= about["curve"][0]["robust"]

    monkeypatch.setattr(attack_script, "Snapshot", lambda path: Snapshot(path, every=0.0))
    shown = attack_script.attack_progress
    for turns in (1, 4):  # killed after so many segments, and once more in the same place

        def mortal(turns=turns):
            left = [turns]

            def show(now):
                left[0] -= 1
                if left[0] < 0:
                    raise KeyboardInterrupt
                shown()(now)

            return show

        monkeypatch.setattr(attack_script, "attack_progress", mortal)
        assert attack(tmp_path / "killed").returncode == 130
    assert list((tmp_path / "killed").glob("progress_*.npz"))
    monkeypatch.setattr(attack_script, "attack_progress", shown)
    assert attack(tmp_path / "killed").returncode == 0
    same(result_files.read(tmp_path / "killed")[0], whole)
    assert not list((tmp_path / "killed").glob("progress_*.npz"))


@pytest.mark.slow
def test_parts_and_more_attacks_are_joined(attack, tmp_path, capsys, monkeypatch):
    one_radius = ("--radii", 1)
    assert attack(tmp_path / "all", *one_radius).returncode == 0
    for number in (1, 2):
        assert attack(tmp_path / str(number), *one_radius, "--share", f"{number}/2").returncode == 0
    merge_reports.main(MergeConfig((str(tmp_path / "2"), str(tmp_path / "1")), str(tmp_path / "joined")))
    joined, whole = result_files.read(tmp_path / "joined")[0], result_files.read(tmp_path / "all")[0]
    order = np.argsort(whole.index)  # a subset has an order of its own; merging sorts
    np.testing.assert_array_equal(joined.index, whole.index[order])
    np.testing.assert_array_equal(joined.outcome, whole.outcome[:, order])

    more = ("--attacks", "apgd-ce", "fab-t", "--given", tmp_path / "all")
    assert attack(tmp_path / "more", *one_radius, *more).returncode == 0
    further = result_files.read(tmp_path / "more")[0]
    assert (further.robust <= whole.robust).all() and (further.already == whole.broken).all()
    done = attack(tmp_path / "less", *one_radius, "--eps", 0.05, *more)
    assert done.returncode == 2 and "is at radius 0.1, must be at most 0.05" in done.stderr
    with pytest.raises(ValueError, match=r"has eps 0\.2"):
        attack(tmp_path / "far", *one_radius, "--eps", 0.2, "--share", "2/2")
        merge_reports.main(MergeConfig((str(tmp_path / "1"), str(tmp_path / "far"))))


WEIGHT = jax.random.normal(jax.random.key(0), (64, 10)) / 8


def logits(x):
    """A network that a user names."""
    return x.reshape(x.shape[0], -1) @ WEIGHT


def noisy(keys, x):
    """The same with noise on the images."""
    return logits(x + 0.1 * jax.vmap(lambda key: jax.random.normal(key, x.shape[1:]))(keys))


def wrong_shape(x):
    """No logits."""
    return jnp.zeros((x.shape[0], 3))


@pytest.mark.slow
def test_any_function(attack, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(pathlib.Path(__file__).parent))

    def source(name, *more):
        return "--source.function", f"test_attack_script:{name}", "--source.dataset", "digits", *more

    assert attack(tmp_path / "a", "--every", "--masking-checks", source=source("logits")).returncode == 0
    page = (tmp_path / "a" / "report.html").read_text()
    assert "Gradient-masking checks" in page
    random = attack(
        tmp_path / "b", "--radii", 1, source=source("noisy", "--source.stochastic", "--source.samples", 2)
    )
    assert random.returncode == 0, random.stderr
    assert result_files.read(tmp_path / "b")[1]["network"]["reference samples"] == 10
    done = attack(tmp_path / "c", source=source("wrong_shape"))
    assert done.returncode == 2 and "must give one for each of 10 classes" in done.stderr


def test_another_network_of_the_same_name_is_refused(attack, tmp_path, monkeypatch):
    """A function is known by its name, whose file may have changed; a few other predictions are enough."""
    monkeypatch.syspath_prepend(str(pathlib.Path(__file__).parent))
    module = importlib.import_module("test_attack_script")
    source = ("--source.function", "test_attack_script:logits", "--source.dataset", "digits")
    words = ("--radii", 1, "--images", 40, "--attacks")

    def run(out, *more):
        return attack(tmp_path / out, *words, *more, source=source)

    assert run("first", "apgd-ce").returncode == 0
    assert run("same", "fab-t", "--given", tmp_path / "first").returncode == 0
    monkeypatch.setattr(module, "WEIGHT", module.WEIGHT.at[:, 0].add(0.05))
    done = run("other", "fab-t", "--given", tmp_path / "first")
    assert done.returncode == 2 and "is about another network of the same name: it answers" in done.stderr
    assert run("changed", "fab-t").returncode == 0
    reports = (str(tmp_path / "first"), str(tmp_path / "changed"))
    with pytest.raises(ValueError, match="of the same name: it answers otherwise"):
        merge_reports.main(MergeConfig(reports, str(tmp_path / "joined")))


def ascent_of_ones_own(threat):
    """A solver that a user names: PGD from a random start."""
    return pgd_solver(threat, steps=3, step_size=threat.eps / 2)


def case_of_ones_own(threat, classes):
    """A case that a user names."""
    return autoattack.apgd_targeted(threat, classes=classes, targets=2, steps=2)._replace(name="mine")


@pytest.mark.slow
def test_attacks_of_ones_own(attack, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(pathlib.Path(__file__).parent))
    mine = [f"test_attack_script:{name}" for name in ("ascent_of_ones_own", "case_of_ones_own")]
    words = ("--radii", 1, "--images", 8, "--restarts", 2)
    assert attack(tmp_path, *words, "--attacks", *mine, "square").returncode == 0
    found, about = result_files.read(tmp_path)
    assert found.attacks == ("ascent_of_ones_own", "mine", "square")
    assert [case["runs"] for case in about["cases"]] == [2, 2, 1]
    done = attack(tmp_path, *words, "--attacks", "apgd-tt")
    assert done.returncode == 2 and "did you mean apgd-t?" in done.stderr


# Attacks that are not made for l2.
ELSEWHERE = {
    "linf": ("rays",),
    "l0": ("sigma-zero", "vfga", "sparse-rs", "sparse-rs-patch", "sparse-rs-frame"),
}


@pytest.mark.slow
@pytest.mark.parametrize("norm, eps", [("l2", 0.5), ("linf", 0.1), ("l0", 20)])
def test_every_attack_by_name_runs(attack, tmp_path, norm, eps):
    others = [name for names in ELSEWHERE.values() for name in names]
    names = ELSEWHERE.get(norm, tuple(name for name in ATTACKS if name not in others))
    words = ("--radii", 1, "--images", 8, "--norm", norm, "--eps", eps, "--steps", 2)
    done = attack(tmp_path, *words, "--attacks", *names)
    assert done.returncode == 0, done.stderr
    found = result_files.read(tmp_path)[0]
    assert found.attacks == names and (found.distance <= eps + 1e-6).all()
