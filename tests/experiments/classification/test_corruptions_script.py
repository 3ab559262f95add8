"""Reports on corrupted images: made here or in files, killed and resumed, beside what is published."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest
import scripts

from experiments.classification import corruptions as script
from experiments.classification.corruptions_report import of_corruption, published, published_cells
from robustjax import data
from robustjax.catalog import known_checkpoints
from robustjax.data import corrupted_trees, subsets
from robustjax.evaluation.corruptions import COMMON, CorruptionResults
from robustjax.runtime import result_files
from robustjax.runtime.snapshot import Snapshot

WEIGHTS = np.random.default_rng(0).normal(size=(64, 10)).astype(np.float32)
FIELDS = ("index", "label", "clean", "prediction", "severities", "corruptions")


def logits(x):
    """The network: fixed random weights on the digits."""
    return x.reshape(len(x), -1) @ WEIGHTS


@pytest.fixture
def measure(capsys, monkeypatch):
    monkeypatch.syspath_prepend(str(pathlib.Path(__file__).parent))
    source = ("--source.function", "test_corruptions_script:logits", "--source.dataset", "digits")

    def run(out, *words):
        words = ("smoke", *source, "--out", out, *words)
        return scripts.call(capsys, monkeypatch, "classification.corruptions", *words)

    return run


def read(folder):
    return result_files.read_arrays(folder, CorruptionResults)


def same(first, second):
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name), err_msg=name)


@pytest.mark.slow
def test_report_resumption_and_files(measure, tmp_path, monkeypatch):
    done = measure(tmp_path / "whole")
    assert done.returncode == 0 and "mean" in done.stderr
    whole, about = read(tmp_path / "whole")
    page = json.loads((tmp_path / "whole" / "results.json").read_text())
    assert whole.prediction.shape == (2, 2, 40)
    assert page["mean"]["%"] == pytest.approx(100 * (whole.prediction == whole.label).mean())
    assert page["mCE"]["%"] == pytest.approx(100 - page["mean"]["%"])  # mean error without a baseline
    assert [cell["severity"] for cell in page["cells"]] == [1, 5, 1, 5]
    assert (tmp_path / "whole" / "figures" / "corruptions.png").is_file()
    assert "size of corrupted images" in done.stderr  # digits have 8 pixels a side

    monkeypatch.setattr(script, "write_report", lambda *given: "no report")  # drawing takes seconds

    # Killed after three batches, and resumed in one.
    class Mortal(Snapshot):
        left = 3

        def __init__(self, path):
            super().__init__(path, every=0.0)

        def keep(self, arrays):
            self.write(arrays())
            Mortal.left -= 1
            if Mortal.left < 0:
                raise KeyboardInterrupt

    monkeypatch.setattr(script, "Snapshot", Mortal)
    assert measure(tmp_path / "killed").returncode == 130
    assert list((tmp_path / "killed").glob("progress_*.npz"))
    monkeypatch.setattr(script, "Snapshot", Snapshot)
    assert measure(tmp_path / "killed").returncode == 0
    same(read(tmp_path / "killed")[0], whole)
    assert not list((tmp_path / "killed").glob("progress_*.npz"))

    # The same images from files, with severities that are not asked for.
    test = subsets.subset(data.load("digits", "test"), None)
    part = subsets.subset(test, 40)
    cells = script.cells_of(script.PRESETS["smoke"], part)
    folder = tmp_path / "digits-C"
    folder.mkdir()
    labels = np.zeros(2000, int)  # an image of the digits has its number among all of them
    labels[test.index] = test.label
    np.save(folder / "labels.npy", np.tile(labels, 5))
    for i, name in enumerate(cells.corruptions):
        images = np.zeros((5, 2000, 8, 8, 1), np.uint8)
        for j, severity in enumerate((1, 5)):
            images[severity - 1, part.index] = cells.read(2 * i + j, 0, 40)
        np.save(folder / f"{name}.npy", images.reshape(-1, 8, 8, 1))
    words = ("--files", folder, "--baseline", tmp_path / "whole")
    assert measure(tmp_path / "files", *words).returncode == 0
    found, about = read(tmp_path / "files")
    same(found, whole)
    assert about["mCE"]["%"] == pytest.approx(100)  # by its own errors

    # Published means are of all fifteen corruptions at all five severities, and mCE of ImageNet's.
    entry = known_checkpoints.known("imagenet2012/corruptions/Standard_R50")
    fifteen = CorruptionResults(COMMON, np.arange(1.0, 6), None, None, None, np.zeros((15, 5, 2)))
    assert published(entry, fifteen) == {"mean": 39.48, "mCE": 76.38}
    assert published(entry, fifteen.of(COMMON[1:])) == {}
    depth = dataclasses.replace(fifteen, corruptions=corrupted_trees.IMAGENET_3DCC)
    assert published(entry, depth) == {"mean": 47.12, "mCE": 73.16}
    augmix = known_checkpoints.known("cifar10/corruptions/Hendrycks2020AugMix_WRN")
    assert published(augmix, fifteen) == {"mean": 88.82}
    assert published_cells(augmix)["fog", 5] == 82.51 and published_cells(entry) == {}
    # 95.10, 94.70, 93.67, 91.73 and 82.51 % under fog
    assert of_corruption(published_cells(augmix), "fog", np.arange(1, 6)) == {
        "published mean": pytest.approx(91.542)
    }
    assert of_corruption(published_cells(augmix), "spatter", np.arange(1, 6)) == {}
    assert published(known_checkpoints.known("Gowal2021Improving_28_10_ddpm_100m"), fifteen) == {}

    for flags, says in (
        (("--files", folder, "--corruptions", "fog"), "fog.npy missing"),
        (("--files", tmp_path / "nowhere"), "is no folder, must hold corrupted images"),
        (("--baseline", "alexnet"), "must be another one for images that are corrupted here"),
        (("--baseline", "lenet"), "must be none, alexnet, alexnet_3dcc, or the folder"),
        (("--severities", "1,7"), "--corruptions: severity is 7"),
        (("--corruptions", "hail"), "corruption is 'hail'"),
    ):
        wrong = measure(tmp_path / "wrong", *flags)
        assert wrong.returncode == 2 and says in wrong.stderr and wrong.stderr.count("\n") == 1, wrong.stderr
