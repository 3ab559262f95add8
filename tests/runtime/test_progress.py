"""The progress line, with a clock of our own in place of tqdm's."""

import io
import itertools
import re

import jax.numpy as jnp
import numpy as np
import pytest

from robustjax.runtime import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("tqdm.std.time", clock)
    return clock


def run(clock, file, *, seconds, total, start=0, stop=None, first=0.0, **settings):
    """Go through a loop whose steps take `seconds`, the first one `first` more."""
    bar = progress(itertools.count(), total=total, start=start, file=file, label="train", **settings)
    steps = []
    for step, item in bar:
        assert item == step - start
        steps.append(step)
        clock.now += seconds + (first if step == start else 0.0)
        bar.show({"loss": jnp.float32(step), "n": 3})
        if step == stop:
            break
    return steps


def test_a_log_gets_a_line_every_ten_seconds_and_one_at_the_end(clock):
    file = io.StringIO()
    steps = run(clock, file, seconds=1.0, total=35, batch_size=128)
    assert steps == list(range(35))
    lines = file.getvalue().splitlines()
    assert len(lines) == 4 and "\r" not in file.getvalue() and file.getvalue().endswith("\n")
    assert lines[0] == "train  29%  10/35  128 img/s  00:10 gone, 00:25 left  loss 9  n 3"
    assert lines[-1] == "train 100%  35/35  128 img/s  took 00:35  loss 34  n 3"


def test_a_terminal_is_redrawn_in_place_at_most_five_times_a_second(clock):
    file = Terminal()
    run(clock, file, seconds=0.01, total=300)
    text = file.getvalue()
    assert text.count("\n") == 1 and text.endswith("\n")
    assert text.count("\r") == pytest.approx(3.0 * 5 + 1, abs=2)


def test_a_terminal_line_does_not_wrap(monkeypatch, clock):
    monkeypatch.setenv("COLUMNS", "40")
    file = Terminal()
    run(clock, file, seconds=1.0, total=30, batch_size=128)
    drawn = file.getvalue().split("\r")[1:]
    assert len(drawn) > 20 and max(len(line.rstrip("\n")) for line in drawn) == 39


def test_speed_leaves_out_the_step_that_compiles(clock):
    file = io.StringIO()
    run(clock, file, seconds=0.5, first=60.0, total=21, batch_size=10)
    assert "20 img/s" in file.getvalue().splitlines()[-1]
    assert "took 01:10" in file.getvalue().splitlines()[-1]


def test_what_a_device_still_computes_counts(clock):
    file = io.StringIO()

    class Late:
        def __array__(self, dtype=None, copy=None):
            clock.now += 7.0
            return np.asarray(1.5)

    bar = progress(range(3), total=3, file=file, label="train")
    for _ in bar:
        clock.now += 1.0
        bar.show({"loss": Late()})
    assert file.getvalue() == "train 100%  3/3  0.222 steps/s  took 00:10  loss 1.5\n"


def test_a_resumed_loop_starts_where_it_was(clock):
    file = io.StringIO()
    assert run(clock, file, seconds=1.0, start=90, total=100) == list(range(90, 100))
    assert re.search(r"100%  100/100 .* took 00:10", file.getvalue())


def test_a_loop_that_is_left_counts_the_step_it_was_in(clock):
    file = io.StringIO()
    run(clock, file, seconds=1.0, total=100, stop=3)
    assert re.search(r"  4%  4/100  ", file.getvalue())


def test_a_source_that_ends_early_ends_the_loop():
    file = io.StringIO()
    assert [item for _, item in progress("abc", total=10, file=file)] == ["a", "b", "c"]
    assert "3/10" in file.getvalue()


def test_a_finished_run_takes_nothing():
    source = iter([1, 2])
    assert list(progress(source, start=5, total=5, file=io.StringIO())) == []
    assert next(source) == 1


def test_start_must_not_lie_beyond_total():
    with pytest.raises(ValueError, match="start is 6 and total 5"):
        progress([], start=6, total=5)
