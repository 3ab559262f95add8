"""ImageNet's validation set in the scripts: a folder tree, RobustBench's list, and a tree of corrupted pictures."""

import io
import pathlib
import shutil

import numpy as np
import pytest
import scripts
from PIL import Image

from experiments.classification import attack as attack_script
from experiments.shared import network_source
from robustjax.data import picture_tree, subsets
from robustjax.data.preprocessing import preprocessing
from robustjax.data.sources import decoded
from robustjax.evaluation.corruptions import CorruptionResults
from robustjax.runtime import result_files

CLASSES = ("n01", "n02", "n03")
RNG = np.random.default_rng(0)


def logits(x):
    """A network of three classes: the largest mean of a colour."""
    return 8 * x.mean(axis=(1, 2))


def picture(folder, kind, number, strength=1.0):
    """Store a picture whose class is its colour, the less the smaller the strength."""
    colour = 128 + strength * 60 * (np.arange(3) == kind) + RNG.normal(scale=20, size=(30, 24, 3))
    out = io.BytesIO()
    Image.fromarray(np.clip(colour, 0, 255).astype(np.uint8)).save(out, "JPEG")
    folder = folder / CLASSES[kind]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"ILSVRC2012_val_{number:08}.JPEG").write_bytes(out.getvalue())


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("val")
    for number in range(1, 31):
        picture(root, number % 3, number)
    return root


@pytest.fixture
def call(capsys, monkeypatch, tree):
    monkeypatch.syspath_prepend(str(pathlib.Path(__file__).parent))
    source = ["--source.function", "test_picture_sources:logits", "--source.dataset", "imagenet2012"]
    source += ["--source.folder", tree, "--source.preprocessing", "Res16Crop12"]

    def run(script, out, *words):
        return scripts.call(
            capsys, monkeypatch, f"classification.{script}", "smoke", *source, "--out", out, *words
        )

    return run


@pytest.mark.slow
def test_attack_on_a_folder_tree(call, tree, tmp_path, monkeypatch):
    monkeypatch.setattr(attack_script, "write_report", lambda *given: "no report")  # drawing takes seconds
    words = ("--radii", 1, "--attacks", "pgd-margin", "--images")
    done = call("attack", tmp_path / "some", *words, 12)
    assert done.returncode == 0, done.stderr
    found, about = result_files.read(tmp_path / "some")
    expected = subsets.subset(picture_tree.load(tree, preprocess="Res16Crop12"), 12)
    np.testing.assert_array_equal(found.index, expected.index)
    np.testing.assert_array_equal(found.label, expected.index % 3)
    assert about["data"]["sha256"] == decoded(expected).info.sha256
    assert about["data"]["per_class"] == [4, 4, 4] and about["data"]["subset"]["whole"] == 30

    listed = tmp_path / "ids.txt"
    listed.write_text(
        "n02/ILSVRC2012_val_00000004.JPEG\nn01/ILSVRC2012_val_00000003.JPEG\nn03/ILSVRC2012_val_00000002.JPEG"
    )
    source = network_source.Source(
        dataset="imagenet2012", folder=str(tree), image_list=str(listed), preprocessing="Res16Crop12"
    )
    np.testing.assert_array_equal(source.images().index, [4, 3, 2])

    wrong = call("attack", tmp_path / "wrong", "--source.preprocessing", "Resize")
    assert wrong.returncode == 2 and "must be like Res256Crop224" in wrong.stderr


@pytest.mark.slow
def test_corrupted_pictures_are_found_by_name(call, tree, tmp_path):
    """At severity 5 the colour of class 0 is gone, so the cells differ; expected is each cell computed by itself."""
    root = tmp_path / "mine-C"
    for number in range(1, 31):
        for severity in (1, 5):
            picture(
                root / "noise" / "gaussian_noise" / str(severity), number % 3, number, 1.2 - 0.24 * severity
            )
            shutil.copytree(tree, root / "brightness" / str(severity), dirs_exist_ok=True)
    names = ("--files", root, "--corruptions", "gaussian_noise", "brightness")
    done = call("corruptions", tmp_path / "out", *names, "--images", 15)
    assert done.returncode == 0, done.stderr
    found, _ = result_files.read_arrays(tmp_path / "out", CorruptionResults)
    assert found.corruptions == ("gaussian_noise", "brightness") and found.prediction.shape == (2, 2, 15)
    scaled = preprocessing("Res12")
    for i, home in enumerate(("noise/gaussian_noise", "brightness")):
        for j, severity in enumerate((1, 5)):
            for k, number in enumerate(found.index):
                file = root / home / str(severity) / CLASSES[number % 3] / f"ILSVRC2012_val_{number:08}.JPEG"
                pixels = scaled(Image.open(file)).astype(np.float32) / 255
                assert found.prediction[i, j, k] == pixels.mean(axis=(0, 1)).argmax()
    assert found.accuracy[0, 1] < found.accuracy[1, 1] == 1

    (root / "brightness" / "5" / "n02" / "ILSVRC2012_val_00000004.JPEG").unlink()
    lacking = call("corruptions", tmp_path / "bad", *names)
    assert lacking.returncode == 2
    assert (
        "1 of 30 pictures missing" in lacking.stderr and "n02/ILSVRC2012_val_00000004.JPEG" in lacking.stderr
    )
    fog = call("corruptions", tmp_path / "bad", "--files", root, "--corruptions", "fog")
    assert "fog missing" in fog.stderr and "brightness, gaussian_noise" in fog.stderr
