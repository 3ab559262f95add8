"""Progress in a file is whole, not written too often, and damage is named."""

import numpy as np
import pytest

from robustjax.runtime.snapshot import Snapshot


class Clock:
    """Seconds that pass when told to."""

    now = 0.0

    def __call__(self):
        return self.now


def test_what_is_kept_comes_back(tmp_path):
    memory = Snapshot(tmp_path / "a.npz")
    assert memory.load() is None
    memory.write({"x": np.arange(3), "name": np.array("abc"), "rows.step": np.zeros((0, 2))})
    found = Snapshot(tmp_path / "a.npz").load()
    assert found is not None and str(found["name"]) == "abc" and found["rows.step"].shape == (0, 2)
    np.testing.assert_array_equal(found["x"], np.arange(3))
    memory.remove()
    memory.remove()
    assert memory.load() is None and not list(tmp_path.iterdir())


def test_it_writes_every_so_often_and_less_where_that_is_slow(tmp_path):
    clock, calls = Clock(), []
    memory = Snapshot(tmp_path / "a.npz", every=10, clock=clock)

    def arrays(takes=0.0):
        calls.append(clock.now)
        clock.now += takes
        return {"x": np.zeros(1)}

    for clock.now in (1.0, 9.0, 11.0, 12.0, 20.0):
        memory.keep(arrays)
    assert calls == [11.0]
    clock.now = 22.0
    memory.keep(lambda: arrays(takes=3.0))  # ends at 25: the next one a minute later
    for clock.now in (40.0, 84.0, 86.0):
        memory.keep(arrays)
    assert calls == [11.0, 22.0, 86.0]


def test_damage_is_named(tmp_path):
    path = tmp_path / "a.npz"
    memory = Snapshot(path)
    memory.write({"x": np.arange(100)})
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"a\.npz: damaged, remove it"):
        memory.load()
