"""Verdict files beside the READMEs: their tables stand in the README, and they name no folder of a machine."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

ROOT = Path(__file__).parents[1]
FRONTIERS = sorted((ROOT / "experiments").glob("*/recorded/*frontier.json"))
assert FRONTIERS


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.parametrize("path", FRONTIERS, ids=lambda path: path.name)
def test_a_frontier_stands_in_its_readme_and_counts_its_images(path):
    text = path.read_text()
    facts = json.loads(text)
    assert not any(folder in text for folder in ('"/', " /", "/home", "/tmp"))
    assert facts["made_with"]["command"].startswith("python -m experiments.")
    readme = (path.parents[1] / "README.md").read_text()
    told = {tuple(cells(line)[-3:]) for line in readme.splitlines() if line.startswith("|")}
    for row, images in zip(facts["runs"], facts["robust images"], strict=True):
        assert (f"{row['CPU-minutes']:.1f}", row["clean %"], row["robust %"]) in told, row
        assert set(images) <= set(facts["images"]) and len(set(images)) == len(images)
        low, high = binomtest(len(images), len(facts["images"])).proportion_ci()
        share = np.array([len(images) / len(facts["images"]), low, high])
        assert row["robust %"] == "{:.1f} ({:.1f} to {:.1f})".format(*100 * share)
