"""Costs of the papers' trainings: commands become plans, hours are added up, and the page says what was compiled."""

import time
from pathlib import Path

import pytest

from experiments.benchmarks import paper_costs, plan
from experiments.benchmarks.config import PaperCostsConfig

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "experiments" / "PAPERS.md"
FOUND = ROOT / "experiments" / "benchmarks" / "paper_costs.jsonl"


def test_commands_become_settings_of_a_plan():
    command = "ood_detection.train cifar10_atom --loss sofl --ood-start 0.5 --ood-restart --updates 141400 --out runs/a"
    script, preset, settings = paper_costs.settings(command)
    assert (script, preset) == ("ood_detection.train", "cifar10_atom")
    assert settings == ["loss=sofl", "ood-start=0.5", "ood-restart=True", "updates=141400"]
    found = plan.script_config(plan.Config(script, preset, settings=tuple(settings)))
    assert (found.loss, found.ood_start, found.ood_restart, found.updates) == ("sofl", 0.5, True, 141_400)
    many = paper_costs.settings("ratio.compare cifar10_paper --methods plain oe at --out runs/b")
    assert many[2] == ["methods=plain,oe,at"]


def test_every_training_of_the_page_can_be_planned():
    commands = paper_costs.trainings(PAGE.read_text())
    assert len(commands) > 40 and {one.split()[0] for one in commands} == set(paper_costs.TRAININGS)
    for command in commands:
        script, preset, settings = paper_costs.settings(command)
        cfg = plan.Config(script, preset, settings=tuple(settings))
        assert plan.images(cfg, plan.script_config(cfg)), command


def line(**changes):
    return {"topology": "v5e:1x1", "hours": 3.04, "memory GB": 9.0, "of GB": 17.0} | changes


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "at least 3.0 h on one v5e"),
        ({"hours": 1234.5}, "at least 1,234 h on one v5e"),
        ({"hours": 0.05}, "at least 3 minutes on one v5e"),
        ({"hours": 2 / 3600}, "at least 2 seconds on one v5e"),
        ({"memory GB": 40.2}, "at least 3.0 h on one v5e, which has 17 of the 40 GB needed"),
        ({"failed": "out of memory"}, ""),
    ],
)
def test_costs_in_words(changes, text):
    assert paper_costs.said(line(**changes)) == text


ROWS = """| command | table or figure | data | cost |
|---|---|---|---|
| `experiments.ratio.compare digits --out a` | one | embedded | 41 CPU-minutes |
| `experiments.ratio.compare cifar10_paper --out b` | two, and more | CIFAR-10; *not at hand*: SVHN | 3,100 PFLOP |
| `experiments.ratio.evaluate cifar10 --out c` | three | the checkpoint | an hour |
"""


def test_costs_that_are_known_are_written_into_the_page():
    command = "ratio.compare cifar10_paper --out b"
    assert paper_costs.trainings(ROWS) == [command]
    found = paper_costs.with_costs(ROWS, {command: line()})
    assert found == ROWS.replace("3,100 PFLOP", "at least 3.0 h on one v5e")
    assert paper_costs.with_costs(ROWS, {command: line(failed="out of memory")}) == ROWS


def test_rows_are_planned_once_and_their_programs_added_up(tmp_path, monkeypatch):
    page, out = tmp_path / "page.md", tmp_path / "out.jsonl"
    page.write_text(ROWS)
    calls = []

    def within(call, seconds):
        assert seconds == PaperCostsConfig("v5e").limit
        calls.append(call)
        folder = Path(call[call.index("--out") + 1])
        program = '{"program": "p", "images": 1, "calls": 2, "bound ms": 1.0, "compiler\'s cycles ms": null'
        tail = '"of GB": 17.2}\n'
        (folder / "plan.jsonl").write_text(
            f'{program}, "hours at least": 1.5, "memory GB": 3.0, {tail}'
            f'{program}, "hours at least": 2.25, "memory GB": 7.0, {tail}'
        )
        return ""

    cfg = PaperCostsConfig("v5e", page=str(page), out=str(out))
    monkeypatch.setattr(paper_costs, "within", lambda call, seconds: None)
    assert (
        paper_costs.main(cfg) == 0 and page.read_text() == ROWS
    )  # too slow: nothing is known, and tried again
    assert paper_costs.lines(out)["ratio.compare cifar10_paper --out b"]["failed"].startswith("not compiled")
    monkeypatch.setattr(paper_costs, "within", within)
    for _ in range(2):
        assert paper_costs.main(cfg) == 0
    assert len(calls) == 1 and "at least 3.8 h on one v5e" in page.read_text()
    (found,) = paper_costs.lines(out).values()
    assert (found["hours"], found["memory GB"], len(found["programs"])) == (3.75, 7.0, 2)


def test_what_takes_too_long_ends_with_all_its_children(tmp_path):
    late = tmp_path / "late"
    assert paper_costs.within(["sh", "-c", "echo wrong >&2"], 60.0) == "wrong\n"
    assert paper_costs.within(["sh", "-c", f"(sleep 1.5; touch {late}) & wait"], 0.3) is None
    time.sleep(2.0)
    assert not late.exists()


def test_the_page_says_what_was_compiled():
    found = paper_costs.lines(FOUND)
    assert set(found) <= set(paper_costs.trainings(PAGE.read_text()))
    assert paper_costs.with_costs(PAGE.read_text(), found) == PAGE.read_text()
