"""Reports on corrupted images: made here or in files, killed and resumed, beside what is published."""

import json

import numpy as np
import pytest
import scripts

from experiments.classification import corruptions as script
from robustjax import data
from robustjax.data import subsets
from robustjax.evaluation.corruptions import CorruptionResults
from robustjax.runtime import result_files
from robustjax.runtime.snapshot import Snapshot

FIELDS = ("index", "label", "clean", "prediction", "severities", "corruptions")


@pytest.fixture
def measure(capsys, monkeypatch, trained):
    def run(out, *words):
        return scripts.call(
            capsys,
            monkeypatch,
            "classification.corruptions",
            "smoke",
            "--source.run",
            trained,
            "--out",
            out,
            *words,
        )

    return run


def read(folder):
    return result_files.read_arrays(folder, CorruptionResults)


def same(first, second):
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name), err_msg=name)


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

    for flags, says in (
        (("--files", folder, "--corruptions", "fog"), "fog.npy missing"),
        (("--files", tmp_path / "nowhere"), "must be a folder of corrupted images"),
        (("--baseline", "alexnet"), "severities are 1, 5, must be 1, 2, 3, 4, 5"),
        (("--baseline", "lenet"), "must be none, alexnet, alexnet_3dcc, or the folder"),
        (("--severities", "1,7"), "--corruptions: severity is 7"),
        (("--corruptions", "hail"), "corruption is 'hail'"),
    ):
        wrong = measure(tmp_path / "wrong", *flags)
        assert wrong.returncode == 2 and says in wrong.stderr and wrong.stderr.count("\n") == 1, wrong.stderr
