"""Checkpoints come back bit for bit or are said to be damaged, whatever happens to their files."""

import os
import shutil
import signal
import subprocess
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustjax.runtime import Checkpoints, data_mesh, over_data, place, replicated


class State(NamedTuple):
    step: Any
    key: Any
    params: Any
    ema: Any = None


def state(seed: int, rows: int = 64) -> State:
    noise = jax.random.normal(jax.random.key(seed), (rows, 40))  # does not compress: lies in files of its own
    return State(
        step=jnp.int32(seed),
        key=jax.random.key(seed + 1),
        params={
            "conv": {"kernel": noise, "bias": jnp.zeros(3, jnp.bfloat16)},
            "seen": np.arange(5, dtype=np.int64),
            "lr": 0.1 * seed,
        },
    )


def same(a: Any, b: Any) -> bool:
    assert jax.tree.structure(a) == jax.tree.structure(b)

    def bits(leaf: Any) -> Any:
        keys = hasattr(leaf, "dtype") and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(leaf) if keys else leaf)

    pairs = list(zip(map(bits, jax.tree.leaves(a)), map(bits, jax.tree.leaves(b)), strict=True))
    return all(x.dtype == y.dtype and np.array_equal(x, y) for x, y in pairs)


def test_every_kind_of_leaf_comes_back(tmp_path):
    with Checkpoints(tmp_path / "c") as saved:
        assert saved.restore(state(0)) is None
        saved.save(7, state(7))
        found = saved.restore(state(0))
    assert found is not None and found[1] == 7 and same(found[0], state(7))
    assert isinstance(found[0].params["lr"], float) and isinstance(found[0].params["seen"], np.ndarray)
    assert found[0].ema is None
    # The key is still a key: it draws what the original draws.
    assert jax.random.bits(found[0].key) == jax.random.bits(state(7).key)


def test_arrays_go_where_like_lies(tmp_path):
    mesh = data_mesh()
    with Checkpoints(tmp_path / "c") as saved:
        saved.save(1, place({"w": jnp.arange(16.0), "key": jax.random.key(3)}, mesh))
        cut = jax.device_put(jnp.zeros(16), over_data(data_mesh(jax.devices()[:2])))
        found = saved.restore({"w": cut, "key": place(jax.random.key(0), mesh)})
        assert found is not None
        assert found[0]["w"].sharding == cut.sharding and np.array_equal(found[0]["w"], np.arange(16.0))
        assert found[0]["key"].sharding.is_fully_replicated and len(found[0]["key"].sharding.device_set) == 8
        saved.save(2, {"w": cut + 1, "key": jax.random.key(4)})  # sharded when saved, replicated when read
        found = saved.restore({"w": place(jnp.zeros(16), mesh), "key": jax.random.key(0)})
        assert found is not None and found[1] == 2 and np.array_equal(found[0]["w"], np.ones(16))
        assert found[0]["w"].sharding == replicated(mesh)


def test_saving_in_the_background_reads_before_the_next_step_overwrites(tmp_path):
    step = jax.jit(lambda w: w * 1.5 + 1, donate_argnums=0)
    w = jnp.zeros((300, 300))
    with Checkpoints(tmp_path / "c", keep=30) as saved:
        for i in range(1, 11):
            w = step(w)
            saved.save(i, {"w": w})
        found = saved.restore({"w": w})
        assert found is not None and found[1] == 10
        assert saved.steps() == list(range(1, 11))
    expected = 0.0
    for _ in range(10):
        expected = np.float32(expected * np.float32(1.5) + np.float32(1))
    np.testing.assert_allclose(found[0]["w"], expected, rtol=1e-6)


def test_newest_and_best_are_kept_also_by_a_restarted_run(tmp_path):
    accuracy = {1: 0.2, 2: 0.9, 3: 0.5, 4: float("nan"), 5: 0.9, 6: 0.3}
    for steps in ([1, 2, 3], [4, 5, 6]):
        with Checkpoints(tmp_path / "c", keep=2, best="valid") as saved:
            for step in steps:
                saved.save(step, {"w": jnp.float32(step)}, {"valid": accuracy[step], "loss": -step})
            if steps[0] == 1:
                assert saved.steps() == [2, 3]
    with Checkpoints(tmp_path / "c", keep=2, best="valid") as saved:
        saved.save(7, {"w": jnp.float32(7)})
        assert saved.steps() == [5, 6, 7]  # 5 is as good as 2, and newer
        saved.save(8, {"w": jnp.float32(8)})
        assert saved.steps() == [5, 7, 8]
        best, newest = saved.restore_best({"w": jnp.float32(0)}), saved.restore({"w": jnp.float32(0)})
    assert best is not None and best[1] == 5 and best[0]["w"] == 5
    assert newest is not None and newest[1] == 8


def test_a_part_of_the_state_from_shapes_alone(tmp_path):
    with Checkpoints(tmp_path / "c") as saved:
        saved.save(1, state(1))
    before = sorted(tmp_path.rglob("*"))
    saved = Checkpoints(tmp_path / "c", read_only=True)
    like = jax.eval_shape(lambda: {"params": {"conv": state(0).params["conv"]}, "key": state(0).key})
    found = saved.restore(like, others=True)
    assert found is not None and same(found[0]["params"]["conv"], state(1).params["conv"])
    assert jax.random.bits(found[0]["key"]) == jax.random.bits(state(1).key)
    with pytest.raises(ValueError, match=r"params\.lr is float64\[\], expected no such leaf"):
        saved.restore(like | {"step": jnp.int32(0)})
    with pytest.raises(ValueError, match="read_only is True"):
        saved.save(2, state(2))
    assert sorted(tmp_path.rglob("*")) == before


def conv(value: State, **changes: Any) -> State:
    return value._replace(params=value.params | {"conv": value.params["conv"] | changes})


@pytest.mark.parametrize(
    ("like", "message"),
    [
        (state(0, rows=32), r"params\.conv\.kernel is float32\[64, 40\], expected float32\[32, 40\]"),
        (conv(state(0), bias=jnp.zeros(3)), r"params\.conv\.bias is bfloat16\[3\], expected float32\[3\]"),
        (state(0)._replace(ema={"w": jnp.zeros(2)}), r"ema\.w is absent, expected float32\[2\]"),
        (state(0)._replace(step=None), r"step is int32\[\], expected no such leaf"),
        (state(0)._replace(key=jax.random.key(0, impl="rbg")), r"key is key<fry>\[\], expected key<rbg>\[\]"),
    ],
)
def test_another_architecture_is_an_error_and_not_damage(tmp_path, like, message):
    said: list[str] = []
    with Checkpoints(tmp_path / "c", say=said.append) as saved:
        saved.save(1, state(1))
        with pytest.raises(ValueError, match=message) as caught:
            saved.restore(like)
        assert "\n" not in str(caught.value) and saved.steps() == [1] and not said


def zeros(raw: bytes) -> bytes:
    third = len(raw) // 3
    return raw[:third] + bytes(third) + raw[2 * third :]


HARM = {
    "deleted": None,
    "empty": lambda raw: b"",
    "half": lambda raw: raw[: len(raw) // 2],
    "zeros": zeros,
}
PARTS = {
    "data": "state/ocdbt.process_*/d/*",
    "index": "state/d/*",
    "root": "state/manifest.ocdbt",
    "ours": "manifest/metadata",
}


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two") / "c"
    with Checkpoints(folder, best="valid") as saved:
        saved.save(1, state(1), {"valid": 0.1})
        saved.save(2, state(2), {"valid": 0.2})
    return folder


def harmed(two, tmp_path, part: str, harm: str):
    folder = shutil.copytree(two, tmp_path / "c")
    files = list((folder / "2").glob(PARTS[part]))
    assert files
    for file in files:
        if HARM[harm] is None:
            file.unlink()
        else:
            file.write_bytes(HARM[harm](file.read_bytes()))
    return folder


@pytest.mark.parametrize(
    "harm", [pytest.param(harm, marks=pytest.mark.slow if harm in ("empty", "half") else ()) for harm in HARM]
)
@pytest.mark.parametrize("part", PARTS)
def test_damage_falls_back_and_says_so(two, tmp_path, part, harm, capfd):
    said: list[str] = []
    with Checkpoints(harmed(two, tmp_path, part, harm), best="valid", say=said.append) as saved:
        found = saved.restore_best(state(0)) if harm == "half" else saved.restore(state(0))
        assert found is not None and found[1] == 1 and same(found[0], state(1))
        assert len(said) == 1 and "checkpoint 2 is damaged" in said[0] and "\n" not in said[0]
        assert "reading step 1" in said[0]
        assert (saved.folder / "damaged_2").is_dir() and saved.steps() == [1]
        if harm == "zeros":  # the run comes by again
            saved.save(2, state(3), {"valid": 0.3})
            again = saved.restore(state(0))
            assert again is not None and again[1] == 2 and same(again[0], state(3))
    out = capfd.readouterr()
    assert out.out == "" and out.err == ""


@pytest.mark.slow
def test_damage_to_all_of_them_leaves_none(two, tmp_path):
    folder = harmed(two, tmp_path, "ours", "empty")
    shutil.rmtree(folder / "1" / "state")
    said: list[str] = []
    with Checkpoints(folder, say=said.append) as saved:
        assert saved.restore(state(0)) is None
    assert len(said) == 2 and "there is no other" in said[1]
    assert {path.name for path in folder.iterdir()} == {"damaged_1", "damaged_2"}


@pytest.mark.slow
def test_damage_is_left_where_it_is_when_only_reading(two, tmp_path):
    folder = harmed(two, tmp_path, "root", "half")
    said: list[str] = []
    found = Checkpoints(folder, read_only=True, say=said.append).restore(state(0))
    assert found is not None and found[1] == 1 and len(said) == 1
    assert {path.name for path in folder.iterdir()} == {"1", "2"}


def test_what_is_no_damage_is_raised(two, tmp_path, monkeypatch):
    saved = Checkpoints(shutil.copytree(two, tmp_path / "c"))

    def refuse(*_, **__):
        raise PermissionError("not yours")

    monkeypatch.setattr(saved._manager, "restore", refuse)
    with pytest.raises(PermissionError):
        saved.restore(state(0))


KILLED = """
import sys
import jax.numpy as jnp, numpy as np
from robustjax.runtime import Checkpoints
saved = Checkpoints(sys.argv[1], keep=2)
for step in range(1, 10_000):
    saved.save(step, {"w": jnp.asarray(np.random.default_rng(step).normal(size=(400, 400)))})
    print(step, flush=True)
"""


def test_a_run_killed_while_saving_leaves_a_whole_checkpoint(tmp_path):
    run = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path / "c")], stdout=subprocess.PIPE, text=True
    )
    assert run.stdout is not None
    for line in run.stdout:
        if line.strip() == "5":
            os.kill(run.pid, signal.SIGKILL)
            break
    run.wait()
    with Checkpoints(tmp_path / "c", keep=2) as saved:
        found = saved.restore({"w": jnp.zeros((400, 400))})
        assert found is not None and found[1] in (3, 4, 5, 6)
        drawn = np.random.default_rng(found[1]).normal(size=(400, 400)).astype(np.float32)
        np.testing.assert_array_equal(found[0]["w"], drawn)
        for step in range(found[1] + 1, 9):
            saved.save(step, found[0])
        assert saved.steps() == [7, 8]
    assert {path.name for path in (tmp_path / "c").iterdir()} == {"7", "8"}


def test_arguments_are_checked(tmp_path):
    with pytest.raises(ValueError, match="keep is 0"):
        Checkpoints(tmp_path, keep=0)
    with pytest.raises(ValueError, match="must be a folder"):
        Checkpoints(tmp_path / "none", read_only=True)
    saved = Checkpoints(tmp_path / "c", best="valid")
    with pytest.raises(ValueError, match="must hold valid"):
        saved.save(1, {"w": jnp.zeros(2)}, {"loss": 1.0})
    with pytest.raises(ValueError, match="must name a metric"):
        Checkpoints(tmp_path / "d").restore_best({"w": jnp.zeros(2)})
    with pytest.raises(ValueError, match="dotted path"):
        saved.save(1, {"a": {"b": jnp.zeros(2)}, "a.b": jnp.zeros(2)})


def test_any_damaged_file_ends_in_the_state_that_was_saved_or_in_a_line(tmp_path):
    """As many as ROBUSTJAX_FUZZ asks for, 600 for all kinds of files, are some 0.9 s each: here a hundredth."""
    whole = State(jnp.int32(3), jax.random.key(1), {"w": jnp.arange(600.0).reshape(20, 30)})
    with Checkpoints(tmp_path / "whole") as saved:
        saved.save(1, whole)
        saved.wait()
    files = sorted(p for p in (tmp_path / "whole").rglob("*") if p.is_file() and p.stat().st_size)
    rng = np.random.default_rng(0)
    for number in range(int(os.environ.get("ROBUSTJAX_FUZZ", "400")) // 100):
        folder, file = tmp_path / str(number), files[int(rng.integers(len(files)))]
        shutil.copytree(tmp_path / "whole", folder)
        damaged = bytearray(file.read_bytes())
        damaged[int(rng.integers(len(damaged)))] ^= 1 << int(rng.integers(8))
        (folder / file.relative_to(tmp_path / "whole")).write_bytes(
            damaged if number % 2 else damaged[: len(damaged) // 2]
        )
        said: list[str] = []
        with Checkpoints(folder, read_only=True, say=said.append) as saved:
            found = saved.restore(whole)
        if found is None:
            assert len(said) == 1 and "checkpoint 1 is damaged" in said[0] and "\n" not in said[0]
        else:
            assert same(found[0], whole)
