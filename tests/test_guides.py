"""The guides run as printed, top to bottom, and print what is printed there.

Words must be the same. Numbers may differ by 3, as percentages of 100 images do when rounding differs between
processors; seconds, and what the last line says of compiling, are not compared. Of what a command prints, a page shows
lines of its choice.
"""

import ast
import os
import pathlib
import re
import shlex
import subprocess
import sys

import jax
import pytest

GUIDES = pathlib.Path(__file__).parent.parent / "experiments" / "guides"
PAGES = {
    "arrays": (),
    "equinox": ("equinox",),
    "nnx": (),
    "own_parts": (),
    "torch": ("torch",),
}
BLOCK = re.compile(r"^```(python)?(?: file=(\S+))?\n(.*?)^```$", re.M | re.S)
NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?:e-?\d+)?(?![\w])")


def words(text):
    """List the lines of a text with one space between words, without numbers and seconds, and the numbers."""
    text = re.sub(r"\d+(?:\.\d+)? s\b( in all.*)?", "s", text)
    lines = [" ".join(NUMBER.sub("#", line).split()) for line in text.strip().splitlines()]
    return lines, [float(number) for number in NUMBER.findall(text)]


def same(printed, shown):
    """Compare two texts word by word, numbers with room for rounding."""
    (lines, ours), (expected, theirs) = words(printed), words(shown)
    assert lines == expected, "\n" + printed
    assert len(ours) == len(theirs) and all(abs(a - b) <= 3 for a, b in zip(ours, theirs)), "\n" + printed


def chosen(printed, shown):
    """Keep those lines of what a command printed that are shown, and its own text where they are not there."""
    kinds = set(words(shown)[0])
    kept = [line for line in printed.splitlines() if set(words(line)[0]) & kinds]
    return "\n".join(kept) if len(kept) == len(words(shown)[0]) else printed


def run_script(command):
    """Run a command as a user does, on one device: the tests' eight are another story."""
    given = shlex.split(command)
    assert given[:2] == ["python", "-m"]
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=1"
    done = subprocess.run(
        [sys.executable, *given[1:]],
        env={**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": str(GUIDES.parent.parent)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.oracle if needed else ()) for name, needed in PAGES.items()]
)
def test_a_guide_runs_as_printed(name, tmp_path, capsys, monkeypatch):
    for library in PAGES[name]:
        pytest.importorskip(library)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    names, printed, ran = {"__name__": "guide"}, "", False
    with jax.numpy_dtype_promotion("standard"):
        for language, file, body in BLOCK.findall((GUIDES / f"{name}.md").read_text()):
            if file:
                ast.parse(body)
                (tmp_path / file).write_text(body)
            elif language:
                exec(compile(body, f"{name}.md", "exec"), names)
                printed, ran = capsys.readouterr().out, False
            elif body.startswith("python -m"):
                if "mypackage" not in body or (tmp_path / "mypackage.py").exists():
                    printed, ran = run_script(body), True
            else:
                same(chosen(printed, body) if ran else printed, body)


def test_every_guide_is_tested_and_linked():
    assert {path.stem for path in GUIDES.glob("*.md")} == set(PAGES)
    root = GUIDES.parent
    for page in (root / "README.md", root.parent / "README.md"):
        text = page.read_text()
        assert all(f"guides/{name}.md" in text for name in PAGES), page


def test_the_rule_by_which_output_is_compared():
    same("apgd-ce 64.9 % (60 to 70) 4.7 s", "apgd-ce   66.1 %  (61 to 71)   12.0 s")
    for other in ("apgd-ce 74.9 % (60 to 70) 4.7 s", "apgd-t 64.9 % (60 to 70) 4.7 s", "apgd-ce 64.9 %"):
        with pytest.raises(AssertionError):
            same("apgd-ce 64.9 % (60 to 70) 4.7 s", other)
