"""OpenOOD's protocol from the command line: a small network on small lists, and files of scores."""

import csv
import json

import numpy as np
import pytest
import scripts
from PIL import Image
from sklearn import metrics

from experiments.ood_detection import openood_results
from experiments.ood_detection.config import OpenoodConfig

RNG = np.random.default_rng(0)
NETWORK = """
import jax
from robustjax.models import small
from robustjax.types import Network

MODEL = small.mlp(classes=10, shape=(32, 32, 3), widths=(12,))
NETWORK = Network(MODEL, *MODEL.init(jax.random.key(0)))
"""


def theirs(conf, label, pred):
    """What OpenOOD computes of pooled scores, written anew from its definitions with scikit-learn."""
    ood = (label == -1).astype(int)
    fpr, tpr, _ = metrics.roc_curve(ood, -conf)
    precision_in, recall_in, _ = metrics.precision_recall_curve(1 - ood, conf)
    precision_out, recall_out, _ = metrics.precision_recall_curve(ood, -conf)
    return {
        "fpr": fpr[np.argmax(tpr >= 0.95)],
        "auroc": metrics.auc(fpr, tpr),
        "aupr_in": metrics.auc(recall_in, precision_in),
        "aupr_out": metrics.auc(recall_out, precision_out),
        "acc": (pred[ood == 0] == label[ood == 0]).mean(),
    }


def scored(count, shift, label):
    conf = np.round(RNG.normal(size=count) + shift, 1)  # with ties
    pred = RNG.integers(0, 10, count)
    return {"conf": conf, "pred": pred, "label": np.full(count, -1) if label is None else label}


@pytest.fixture
def files(tmp_path):
    made = {
        "cifar10": scored(90, 1.0, RNG.integers(0, 10, 90)),
        "cifar10c": scored(50, 0.7, RNG.integers(0, 10, 50)),
        **{
            name: scored(30 + 10 * i, -i / 2, None)
            for i, name in enumerate(("cifar100", "tin", "mnist", "svhn", "texture", "places365"))
        },
    }
    for name, arrays in made.items():
        np.savez(tmp_path / f"{name}.npz", **arrays)
    return tmp_path, made


def pooled(ours, other):
    return (np.concatenate([ours[key], other[key]]) for key in ("conf", "label", "pred"))


def test_metrics_of_score_files_are_openoods(files, tmp_path, capsys, monkeypatch):
    folder, made = files
    out = tmp_path / "out"
    words = ("ood_detection.openood", "cifar10", "--scores", folder, "--full-spectrum", "--out", out)
    done = scripts.call(capsys, monkeypatch, *words)
    assert done.returncode == 0, done.stderr
    found = json.loads((out / "metrics.json").read_text())["metrics"][folder.name]
    both = {key: np.concatenate([made["cifar10"][key], made["cifar10c"][key]]) for key in made["cifar10"]}
    for kind, ours in (("clean", made["cifar10"]), ("full spectrum", both)):
        want = {
            name: theirs(*pooled(ours, it))
            for name, it in made.items()
            if "10c" not in name and name != "cifar10"
        }
        for name, row in want.items():
            for metric, value in row.items():
                assert found["sets"][name][kind][metric] == pytest.approx(value, abs=1e-12), (name, metric)
        for part, names in (
            ("near", ("cifar100", "tin")),
            ("far", ("mnist", "svhn", "texture", "places365")),
        ):
            for metric in want["tin"]:
                mean = np.mean([want[name][metric] for name in names])
                assert found[kind][part][metric] == pytest.approx(mean, abs=1e-12)
    with (out / f"ood/{folder.name}.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["dataset"] for row in rows] == [
        "cifar100", "tin", "nearood", "mnist", "svhn", "texture", "places365", "farood"
    ]  # fmt: skip
    assert rows[0]["AUROC"] == f"{100 * theirs(*pooled(made['cifar10'], made['cifar100']))['auroc']:.2f}"


def test_damaged_score_files_are_refused_in_one_line(files):
    folder, made = files
    cfg = OpenoodConfig(scores=str(folder))
    np.savez(folder / "tin.npz", conf=made["tin"]["conf"], pred=made["tin"]["pred"])
    with pytest.raises(ValueError, match=r"tin.npz: has no label"):
        openood_results.of_folder(cfg, folder)
    np.savez(folder / "tin.npz", **{**made["tin"], "pred": np.zeros(3)})
    with pytest.raises(ValueError, match="must be equal"):
        openood_results.of_folder(cfg, folder)
    (folder / "tin.npz").write_bytes(b"no archive")
    with pytest.raises(ValueError, match="not a file of scores"):
        openood_results.of_folder(cfg, folder)


def put(root, name, listed, count, labels):
    lines = []
    (root / "images_classic" / name).mkdir(parents=True, exist_ok=True)
    for i in range(count):
        pixels = RNG.integers(0, 256, (32, 32, 3), dtype=np.int64).astype(np.uint8)
        Image.fromarray(pixels).save(root / f"images_classic/{name}/{i}.png")
        lines.append(f"{name}/{i}.png {i % 10 if labels else -1}")
    (root / f"benchmark_imglist/cifar10/{listed}.txt").write_text("\n".join(lines))


@pytest.mark.slow
def test_a_network_is_evaluated_searched_and_attacked(tmp_path, monkeypatch, capsys):
    root, out = tmp_path / "data", tmp_path / "out"
    (root / "benchmark_imglist/cifar10").mkdir(parents=True)
    for name, listed, labels in (
        ("train", "train_cifar10", True), ("val", "val_cifar10", True), ("test", "test_cifar10", True),
        ("valtin", "val_tin", False), ("cifar100", "test_cifar100", False), ("texture", "test_texture", False),
    ):  # fmt: skip
        put(root, name, listed, 20 if name == "train" else 12, labels)
    (tmp_path / "net_for_openood.py").write_text(NETWORK)
    monkeypatch.chdir(tmp_path)
    words = ("ood_detection.openood", "smoke", "--root", root, "--source.function", "net_for_openood:NETWORK",
             "--attacks", "atd", "--out", out)  # fmt: skip
    done = scripts.call(capsys, monkeypatch, *words)
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    assert "test_cifar10.txt lists 12 images, the published list 9000" in said
    assert "vra: high" in said and "validation AUROC" in said and "nearood" in said
    found = json.loads((out / "metrics.json").read_text())
    assert set(found["metrics"]) == {"msp", "vra"}
    for it in found["metrics"].values():
        attacked = it["attacked"]["atd_0.03137"]["near"]
        assert attacked["auroc_both"] <= min(attacked["auroc_in"], attacked["auroc_out"]) + 1e-9
    kept = json.loads(next((out / "searches").rglob("vra.json")).read_text())
    assert len(kept["tried"]) == 16
    assert kept["chosen"]["auroc"] == max(tried["auroc"] for tried in kept["tried"])
    with np.load(next((out / "scores").rglob("msp/clean/texture.npz"))) as file:
        assert {"conf", "pred", "label"} <= set(file) and (file["label"] == -1).all()


def test_what_is_missing_is_said_in_one_line(tmp_path):
    with pytest.raises(ValueError, match="--root and --scores are missing"):
        OpenoodConfig().check()
    with pytest.raises(ValueError, match="--sets lsun: no OOD set of cifar10"):
        OpenoodConfig(sets=("lsun",)).check()
