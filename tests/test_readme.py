"""The README's example runs as printed and prints what is printed there, which closed form says is right."""

import pathlib
import re

import jax
import numpy as np
import pytest

from robustjax import data

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


@pytest.fixture(scope="module")
def printed():
    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    lines = []
    names = {"__name__": "readme", "print": lambda *words: lines.append(" ".join(map(str, words)))}
    with jax.numpy_dtype_promotion("standard"):
        exec(compile(code, "README.md", "exec"), names)
    return "\n".join(lines)


def table(text):
    return re.findall(
        r"^ *(clean|apgd-ce|apgd-t|fab-t|square|robust) +([\d.]+) %  \(([\d.]+) to ([\d.]+)\)", text, re.M
    )


def test_the_example_prints_what_the_readme_shows(printed):
    shown = table(README)
    assert [row[0] for row in shown] == ["clean", "apgd-ce", "apgd-t", "fab-t", "square", "robust"]
    np.testing.assert_allclose(
        [[float(v) for v in row[1:]] for row in table(printed)],
        [[float(v) for v in row[1:]] for row in shown],
        atol=0.6,  # two of 359 images: rounding differs between processors
    )
    assert "warning" not in printed and "warning" not in README


def test_the_example_is_right(printed):
    """Differences of its logits are linear in x, so the worst point of the ball is a corner that is known."""
    train, test = data.load("digits", "train"), data.load("digits", "test")
    mean = np.stack([train.image[train.label == k].mean(axis=0) / 255 for k in range(10)]).reshape(10, -1)
    x, y = test.image.reshape(len(test.image), -1) / 255, test.label
    logits = -np.square(x[:, None] - mean).sum(axis=2)
    slope = 2 * (mean[None] - mean[y][:, None])  # (n, k, d), of z_k - z_y
    low, high = (np.clip(x + side, 0, 1) - x for side in (-0.1, 0.1))
    worst = np.where(slope > 0, slope * high[:, None], slope * low[:, None]).sum(axis=2)
    margin = logits - logits[np.arange(len(y)), y][:, None] + worst
    margin[np.arange(len(y)), y] = -np.inf
    exact = 100 * np.mean((logits.argmax(axis=1) == y) & (margin.max(axis=1) < 0))
    (found,) = [float(row[1]) for row in table(printed) if row[0] == "robust"]
    assert found == pytest.approx(exact, abs=0.3)


def test_the_readme_is_short_and_its_links_lead_somewhere():
    assert len(README.encode()) < 7000
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert link.startswith("http") or (ROOT / link).exists(), link
