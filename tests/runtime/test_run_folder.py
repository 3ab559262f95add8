"""What a run was started with comes back as the settings it was, and only from a folder of its kind."""

import dataclasses
import json
from typing import Literal

import jax
import numpy as np
import pytest

from robustjax.runtime import Checkpoints, Run, from_plain, open_run


@dataclasses.dataclass(frozen=True)
class Attack:
    norm: Literal["linf", "l2"] = "linf"
    eps: float = 0.1
    radii: tuple[float, ...] = (0.0, 1.0)


@dataclasses.dataclass(frozen=True)
class Config:
    attack: Attack = Attack()
    shifts: tuple[tuple[str, int], ...] = (("fog", 2),)
    images: int | None = None
    out: str = "runs/x"


def test_settings_come_back_as_they_were(tmp_path):
    cfg = Config(Attack("l2", 1.0, (0.5,)), (("blur", 1), ("fog", 3)), 7, str(tmp_path / "run"))
    with Run(cfg.out, cfg):
        pass
    found = open_run(cfg.out, made_by="this test", needed=("attack",))
    assert found.settings(Config) == cfg
    assert isinstance(found.settings(Config).attack.eps, float)


def test_whole_numbers_are_floats_where_floats_are_asked_for():
    assert isinstance(from_plain(float, 1), float)
    for kind, value in ((int, 1.0), (int, True), (float, True), (float, "1"), (str, 1), (Attack, 3)):
        with pytest.raises(TypeError):
            from_plain(kind, value)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"attack": {"norm": "l7"}}, "'l7' is not of"),
        ({"attack": {"steps": 1}}, "Attack has no steps"),
        ({"attack": {}, "shifts": [["fog", 1, 2]]}, "is not of"),
    ],
)
def test_other_settings_are_refused_in_one_line(tmp_path, config, says):
    (tmp_path / "config.json").write_text(json.dumps({"config": config, "starts": []}))
    with pytest.raises(ValueError, match=says) as caught:
        open_run(tmp_path, made_by="this test").settings(Config)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [None, "", "[]", '{"config": 1}', '{"config": {"model": "mlp"}}'])
def test_a_folder_of_something_else_is_refused_in_one_line(tmp_path, content):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match="holds no run of ratio") as caught:
        open_run(tmp_path, made_by="ratio", needed=("eps",))
    assert "\n" not in str(caught.value)


def test_checkpoints_are_read_as_what_is_asked_for(tmp_path):
    with Run(tmp_path, Config()), Checkpoints(tmp_path / "checkpoints", best="score") as saved:
        for step, score in ((1, 0.5), (2, 0.9), (3, 0.1)):
            saved.save(
                step,
                {"params": np.full(2, step, np.float32), "other": np.zeros(1, np.float32)},
                {"score": score},
            )
    run = open_run(tmp_path, made_by="this test")
    like = {"params": jax.ShapeDtypeStruct((2,), np.float32)}
    tree, step = run.restore(like, best="score")
    assert step == 2 and (np.asarray(tree["params"]) == 2).all()
    assert run.restore(like)[1] == 3
    with pytest.raises(ValueError, match="there is none"):
        open_run(tmp_path, made_by="x")._replace(folder=tmp_path / "none").restore(like)


def test_cached_arrays_are_made_once(tmp_path):
    made = []

    def make():
        made.append(1)
        return {"a": np.arange(3)}

    with Run(tmp_path, Config()) as run:
        assert run.cached("parts/one", lambda: None) is None and not list(tmp_path.glob("parts/*"))
        first, second = run.cached("parts/one", make), run.cached("parts/one", make)
        np.testing.assert_array_equal(first["a"], second["a"])
        assert made == [1]
        (tmp_path / "parts/one.npz").write_bytes(b"torn")
        with pytest.raises(ValueError, match=r"one\.npz: damaged, remove it"):
            run.cached("parts/one", make)
