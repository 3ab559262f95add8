"""Cost against robustness: CPU time over interruptions, the frontier, and what the script refuses."""

import json
import shutil

import numpy as np
import pytest
import scripts

from experiments.classification import frontier
from experiments.classification.config import FrontierConfig
from experiments.shared import cpu_time


class Clock:
    """A clock of CPU seconds that moves by hand."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    found = Clock()
    monkeypatch.setattr(cpu_time.time, "process_time", found)
    return found


def test_cpu_time_leaves_out_pauses_and_lost_updates(clock, tmp_path):
    def update(state, batch):
        clock.now += 6
        return state, {}

    def updates(spent, count):
        one = spent.counted(update)
        for _ in range(count):
            one(None, None)

    assert cpu_time.cpu_minutes(tmp_path) is None
    spent = cpu_time.CpuTime(tmp_path, every=10)
    spent.start(0)
    updates(spent, 20)
    with spent.paused():
        clock.now += 1000
    updates(spent, 10)
    assert cpu_time.cpu_minutes(tmp_path) == pytest.approx(3.0)  # 30 updates of 6 s
    # Killed; the checkpoint was after 20 updates, the ten after it are made again, and ten more.
    spent = cpu_time.CpuTime(tmp_path, every=10)
    clock.now += 500
    spent.start(20)
    updates(spent, 20)
    assert cpu_time.cpu_minutes(tmp_path) == pytest.approx(4.0)
    updates(spent, 5)  # the end of a run, which is validated
    with spent.paused():
        clock.now += 1000
    assert cpu_time.cpu_minutes(tmp_path) == pytest.approx(4.5)
    # A run whose first part was not counted has no time, rather than that of its rest.
    (tmp_path / "later").mkdir()
    spent = cpu_time.CpuTime(tmp_path / "later", every=10)
    spent.start(20)
    updates(spent, 20)
    assert cpu_time.cpu_minutes(tmp_path / "later") is None


def test_what_is_on_the_frontier():
    assert frontier.frontier([10, 20, 30], [0.3, 0.2, 0.4]) == [True, False, True]
    assert frontier.frontier([10, 10, 10], [0.3, 0.3, 0.2]) == [True, True, False]
    assert frontier.frontier([10, 9], [0.3, 0.3]) == [False, True]


def test_lines_are_named_by_what_made_a_difference():
    """N-FGSM takes one step, whatever the settings of PGD say."""

    def run(**settings):
        plain = {
            "loss": "adversarial",
            "attack.steps": 2,
            "attack.eps": 0.1,
            "awp": 0.0,
            "seed": 0,
            "updates": 9,
        }
        return frontier.Trained("", plain | settings, 1.0, None, {})

    fast, slow = run(**{"loss": "n_fgsm", "attack.steps": 10}), run(**{"attack.steps": 7})
    assert frontier.lines_of([run(), fast, run(seed=1, updates=3)]) == [
        "adversarial",
        "n_fgsm",
        "adversarial",
    ]
    assert frontier.lines_of([run(), fast, slow]) == [
        "adversarial, attack.steps 2",
        "n_fgsm",
        "adversarial, attack.steps 7",
    ]
    assert frontier.lines_of([run(), run(awp=0.5)]) == ["adversarial", "awp 0.5"]
    assert frontier.lines_of([run(), run(seed=1)]) == ["adversarial", "adversarial"]


@pytest.fixture(scope="module")
def attacked(trained, tmp_path_factory):
    """Two runs that differ in their seed alone, of 1.5 and 3 CPU-minutes, attacked at one radius."""
    folders = [tmp_path_factory.mktemp("frontier") / name for name in ("zero", "one")]
    for seed, folder in enumerate(folders):
        shutil.copytree(trained, folder)
        made = json.loads((folder / "config.json").read_text())
        made["config"]["seed"] = seed
        (folder / "config.json").write_text(json.dumps(made))
        (folder / "cpu_time.jsonl").write_text(f'{{"step": 4, "cpu_seconds": {90 * (seed + 1)}}}\n')
    done = scripts.run("classification.attack", "smoke", "--source.run", folders[0])
    assert done.returncode == 0, done.stderr
    shutil.copytree(folders[0] / "attack", folders[1] / "attack")
    return folders


def compare(*folders, out):
    frontier.main(FrontierConfig(runs=tuple(map(str, folders)), out=str(out)))


def test_script(attacked, tmp_path):
    compare(*attacked, out=tmp_path)
    found = json.loads((tmp_path / "results.json").read_text())
    assert [row["CPU-minutes"] for row in found["runs"]] == [1.5, 3.0]
    assert [row["on the frontier"] for row in found["runs"]] == ["yes", ""]  # as robust, and shorter
    (report,) = attacked[0].glob("attack/*/results.json")
    examples = json.loads(report.read_text())["examples"]
    robust = 100 * np.mean([one["robust"] for one in examples])
    assert found["runs"][0]["robust %"].startswith(f"{robust:.1f} (")
    kept = sorted(one["index"] for one in examples if one["robust"])
    assert found["robust images"] == [kept, kept]  # in the order of the runs
    assert found["images"] == sorted(one["index"] for one in examples)
    (group,) = found["over seeds"]
    assert (group["seeds"], group["CPU-minutes"], group["training"]) == (2, 2.2, "adversarial")
    assert (tmp_path / "figures" / "frontier.png").stat().st_size > 1000


def test_what_cannot_be_compared_is_refused(attacked, tmp_path):
    def refused(*folders):
        with pytest.raises(ValueError) as raised:
            compare(*folders, out=tmp_path / "out")
        assert not (tmp_path / "out").exists()
        return str(raised.value)

    assert "must name one or more folders, none twice" in refused(attacked[0], attacked[0])
    assert "no config.json" in refused(tmp_path / "nothing")
    untimed, unattacked = tmp_path / "untimed", tmp_path / "unattacked"
    shutil.copytree(attacked[0], untimed)
    (untimed / "cpu_time.jsonl").unlink()
    assert "must hold cpu_time.jsonl" in refused(untimed)
    shutil.copytree(attacked[0], unattacked)
    shutil.rmtree(unattacked / "attack")
    assert "holds none, must hold one report" in refused(unattacked)
    other = tmp_path / "other"
    shutil.copytree(attacked[1], other)
    made = json.loads((other / "config.json").read_text())
    made["config"]["dataset"] = "letters"
    (other / "config.json").write_text(json.dumps(made))
    assert "data set letters, must be digits" in refused(attacked[0], other)
