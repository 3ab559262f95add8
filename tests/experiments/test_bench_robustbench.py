"""The comparison with RobustBench: its table, and that it goes on where it was."""

import importlib.util
import json

import pytest

from experiments.benchmarks import robustbench
from experiments.benchmarks.config import RobustBenchConfig
from robustjax.catalog.known_checkpoints import entries


def line(board, difference=1e-6, scale=2.0, right=True):
    return {"board": board, "difference": difference, "scale": scale, "right": right, "kind": board}


def test_the_table_counts_each_board():
    lines = [
        line("cifar10/l2/Standard"),
        line("cifar10/l2/Ding2020MMA", difference=4e-6, right=False),
        line("imagenet2012/linf/Salman2020Do_R18", scale=1.0),
    ]
    rows = {row.split("|")[1].strip(): row for row in robustbench.table(lines)}
    assert rows["cifar10, l2"] == "| cifar10, l2 | 21 | 21 | 2 | 1 | 2.0e-06 |"
    assert rows["imagenet2012, linf"].endswith("| 1 | 1 | 1.0e-06 |")
    here = sum(entry.architecture is not None for entry in entries())
    assert rows["all"].startswith(f"| all | 206 | {here} | 3 | 2 |")
    assert here >= 190


def test_the_page_has_a_line_for_each_entry():
    board = "cifar10/l2/Standard"
    rows = list(robustbench.page({board: line(board, difference=3e-6, right=False)}))
    written = [row for row in rows if row.count(" | ") == 3 and not row.startswith("| board")]
    assert len(written) == len(list(entries())) == 206
    assert "| cifar10/l2 | Standard | wideresnet28_10 | 1.5e-06, recognised as another |" in written
    assert sum("| not here |" in row for row in written) == sum(not entry.architecture for entry in entries())


def test_an_entry_that_is_there_is_not_measured_again(tmp_path, monkeypatch, capsys):
    """Of two entries that are built alike one is measured; the second and a second run take its numbers."""
    built = []

    class Zoo:
        def kind(self, entry):
            return "one class"

        def build(self, entry):
            built.append(entry.name)

    monkeypatch.setattr(robustbench, "originals", Zoo)
    found = {"difference": 0.0, "scale": 1.0, "right": True}
    monkeypatch.setattr(robustbench, "measured", lambda entry, theirs, **settings: found)
    out = tmp_path / "lines.jsonl"
    names = ("Sehwag2021Proxy_R18", "Addepalli2021Towards_RN18")
    for _ in range(2):
        robustbench.main(RobustBenchConfig(out=str(out), only=names))
    assert len(built) == 1
    boards = [json.loads(text)["board"] for text in out.read_text().splitlines()]
    assert sorted(boards) == [
        "cifar10/l2/Sehwag2021Proxy_R18",
        "cifar10/linf/Addepalli2021Towards_RN18",
        "cifar10/linf/Sehwag2021Proxy_R18",
    ]
    assert "| cifar10, linf |" in capsys.readouterr().out


@pytest.mark.skipif(importlib.util.find_spec("robustbench") is not None, reason="robustbench is here")
def test_without_robustbench_a_line_says_so():
    with pytest.raises(ValueError, match="robustbench cannot be imported"):
        robustbench.originals()
