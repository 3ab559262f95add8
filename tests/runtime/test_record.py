"""A run folder holds one config and each step once."""

import dataclasses
import enum
import hashlib
import importlib
import json
import runpy
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from robustjax.runtime import Run, provenance, read_metrics


class Norm(enum.Enum):
    LINF = 1


@dataclasses.dataclass(frozen=True)
class Attack:
    eps: float = 8 / 255
    norm: Norm = Norm.LINF


@dataclasses.dataclass(frozen=True)
class Config:
    out: Path = Path("runs/a")
    seed: int = 0
    updates: int = 100
    widths: tuple[int, ...] = (16, 32)
    attack: Attack = Attack()


def test_config_is_nested_json_beside_its_origin(tmp_path):
    with Run(tmp_path / "run", Config()) as run:
        assert not run.resumed
    page = json.loads((tmp_path / "run/config.json").read_text())
    assert page["config"] == {
        "out": "runs/a",
        "seed": 0,
        "updates": 100,
        "widths": [16, 32],
        "attack": {"eps": 8 / 255, "norm": "LINF"},
    }
    (start,) = page["starts"]
    assert start["devices"] == {"cpu": 8} and {"python", "jax", "flax", "optax"} <= start["versions"].keys()
    bound = {"seed": 0, "widths": [16, 32], "attack.eps": 8 / 255, "attack.norm": "LINF"}
    assert page["config_hash"] == hashlib.sha256(json.dumps(bound, sort_keys=True).encode()).hexdigest()[:16]


def test_another_config_is_refused_and_nothing_touched(tmp_path):
    with Run(tmp_path / "run", Config()) as run:
        run.record(0, {"loss": 1.0})
    before = {path: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    other = Config(seed=1, updates=50, attack=Attack(eps=0.25))
    with pytest.raises(
        ValueError, match=r"\(seed: 0 there, 1 now; attack\.eps: 0\.03\d+ there, 0\.25 now\)"
    ) as caught:
        Run(tmp_path / "run", other)
    assert "updates" not in str(caught.value) and "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


def test_the_same_config_resumes(tmp_path):
    Run(tmp_path / "run", Config()).close()
    run = Run(tmp_path / "run", Config(out=tmp_path, updates=200))
    page = json.loads((tmp_path / "run/config.json").read_text())
    assert run.resumed and len(page["starts"]) == 2 and page["config"]["updates"] == 200
    Run(tmp_path / "run", Config(attack=Attack(eps=1.0)), may_differ=("out", "updates", "attack")).close()


@pytest.mark.parametrize("content", ["", "[]", '{"config": 1}', '{"config": {}, "sta'])
def test_a_folder_of_something_else_is_refused(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"Run: .*config\.json"):
        Run(tmp_path, Config())
    assert (tmp_path / "config.json").read_text() == content


def losses(run: Run, steps: range) -> None:
    for step in steps:
        run.record(step, {"loss": jnp.float32(1) / (step + 1)})
        if step % 5 == 4:
            run.record(step, {"valid_accuracy": 0.1 * step})


def test_a_resumed_file_equals_that_of_an_unbroken_run(tmp_path):
    with Run(tmp_path / "whole", Config()) as run:
        losses(run, range(20))
    run = Run(tmp_path / "broken", Config())
    losses(run, range(14))  # killed: never closed, the last step unwritten
    path = tmp_path / "broken/metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 13, "lo')
    with Run(tmp_path / "broken", Config()) as run:
        assert [line["step"] for line in read_metrics(tmp_path / "broken")] == list(range(13))
        run.resume(10)  # where the last checkpoint lies
        losses(run, range(10, 20))
    assert path.read_bytes() == (tmp_path / "whole/metrics.jsonl").read_bytes()
    assert [line["step"] for line in read_metrics(tmp_path / "whole")] == list(range(20))
    assert read_metrics(tmp_path / "whole")[9] == {"step": 9, "loss": 0.1, "valid_accuracy": 0.9}
    assert {entry.name for entry in (tmp_path / "broken").iterdir()} == {"config.json", "metrics.jsonl"}


def test_a_step_twice_is_an_error_before_it_is_in_the_file(tmp_path):
    with Run(tmp_path, Config()) as run:
        losses(run, range(3))
        with pytest.raises(ValueError, match="step is 1, must be above 2"):
            run.record(1, {"loss": 0.0})
    with Run(tmp_path, Config()) as run, pytest.raises(ValueError, match=r"call resume\(step\)"):
        run.record(2, {"loss": 0.0})
    assert [line["step"] for line in read_metrics(tmp_path)] == [0, 1, 2]


class Busy:
    """A number that a device still computes: reading it would wait."""

    def __init__(self):
        self.read = 0

    def __array__(self, dtype=None, copy=None):
        self.read += 1
        return np.asarray(2.5, np.float32)


def test_numbers_are_read_one_record_later(tmp_path):
    first, second = Busy(), Busy()
    with Run(tmp_path, Config()) as run:
        run.record(0, {"loss": first})
        assert first.read == 0 and read_metrics(tmp_path) == []
        run.record(1, {"loss": second})
        assert first.read > 0 and second.read == 0
        assert read_metrics(tmp_path) == [{"step": 0, "loss": 2.5}]
    assert read_metrics(tmp_path)[1] == {"step": 1, "loss": 2.5}


def test_every_kind_of_number_is_strict_json(tmp_path):
    numbers = {
        "float32": jnp.float32(0.1),
        "bfloat16": jnp.bfloat16(0.5),
        "int": jnp.int32(3),
        "bool": jnp.bool_(True),
        "vector": jnp.asarray([0.1, jnp.nan]),
        "nan": float("nan"),
        "inf": -jnp.inf,
        "python": 0.1,
    }
    with Run(tmp_path, Config()) as run:
        run.record(0, numbers)

    def refuse(name):
        raise AssertionError(name)

    line = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=refuse)
    assert line == {
        "step": 0,
        "float32": 0.1,
        "bfloat16": 0.5,
        "int": 3,
        "bool": True,
        "vector": [0.1, "nan"],
        "nan": "nan",
        "inf": "-inf",
        "python": 0.1,
    }


def test_an_error_in_the_loop_is_not_hidden_by_the_last_numbers(tmp_path):
    class Failed:
        def __array__(self, dtype=None, copy=None):
            raise RuntimeError("device lost")

    with pytest.raises(KeyError, match="ours"), Run(tmp_path, Config()) as run:
        run.record(0, {"loss": Failed()})
        raise KeyError("ours")


def test_tensorboard_events_hold_the_numbers(tmp_path):
    pytest.importorskip("tensorboardX")
    with Run(tmp_path, Config(), tensorboard=True) as run:
        losses(run, range(5))
    (path,) = (tmp_path / "tensorboard").iterdir()
    event_pb2: Any = importlib.import_module("tensorboardX.proto.event_pb2")
    raw, values = path.read_bytes(), []
    while raw:
        size = int.from_bytes(raw[:8], "little")
        values += [
            (v.tag, v.simple_value) for v in event_pb2.Event.FromString(raw[12 : 12 + size]).summary.value
        ]
        raw = raw[12 + size + 4 :]
    assert ("loss", 1.0) in values and ("loss", 0.5) in values and len(values) == 6


def test_the_commit_is_that_of_tracked_files_only(tmp_path):
    assert provenance.commit(tmp_path) is None

    def git(*words):
        who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        return subprocess.run(
            ["git", "-C", tmp_path, *who, *words], check=True, capture_output=True, text=True
        ).stdout

    git("init", "-q")
    (tmp_path / "code.py").write_text("1")
    (tmp_path / "installed").mkdir()
    (tmp_path / "installed/other.py").write_text("1")
    git("add", "code.py")
    git("commit", "-qm", "one")
    head = git("rev-parse", "HEAD").strip()
    assert provenance.commit(tmp_path) == {"commit": head, "dirty": False}
    assert provenance.commit(tmp_path / "installed") is None
    (tmp_path / "code.py").write_text("2")
    assert provenance.commit(tmp_path) == {"commit": head, "dirty": True}


def test_the_command_is_what_one_would_type_again(tmp_path, monkeypatch):
    (tmp_path / "topic").mkdir()
    for where in ("topic/script.py", "topic/__main__.py", "alone.py"):
        (tmp_path / where).write_text(
            "from robustjax.runtime import provenance\nsaid = provenance.command()\n"
        )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "argv", ["any", "preset", "--out", "my runs"])
    for module, name in (("topic.script", "topic.script"), ("topic.__main__", "topic")):
        said = runpy.run_module(module, run_name="__main__", alter_sys=True)["said"]
        assert said == f"python -m {name} preset --out 'my runs'"
    said = runpy.run_path(str(tmp_path / "alone.py"), run_name="__main__")["said"]
    assert shlex.split(said) == ["python", str(tmp_path / "alone.py"), "preset", "--out", "my runs"]
