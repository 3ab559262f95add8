"""The first minutes on a GPU: parts in order, passed over when measured, left out when late; all of them on a CPU."""

import json

import numpy as np
import pytest
import scripts

from experiments.benchmarks import first_gpu_run, gpu_parts
from experiments.benchmarks.config import FirstGpuRunConfig
from experiments.benchmarks.gpu_parts import Part

ARRAYS = {"x_train": (64, 8, 8, 3), "y_train": (64,), "x_test": (16, 8, 8, 3), "y_test": (16,)}


@pytest.fixture
def carried(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        name: rng.integers(0, 256, shape).astype(np.uint8) if name[0] == "x" else np.arange(shape[0]) % 10
        for name, shape in ARRAYS.items()
    }
    np.savez(tmp_path / "made.npz", **arrays)
    return tmp_path / "made.npz"


def test_parts_are_passed_over_left_out_or_tried_again(capsys):
    clock, kept, ran = [100.0], {}, []

    def part(name, estimate, *, fails=False):
        def measure():
            clock[0] -= estimate
            ran.append(name)
            if fails:
                raise RuntimeError("out of\nmemory")
            return {"seconds": estimate}

        return Part(name, estimate, measure)

    parts = [part("a", 60), part("b", 20, fails=True), part("c", 30), part("d", 15), part("e", 5)]
    late = first_gpu_run.run(parts, done={"a"}, left=lambda: clock[0], keep=kept.__setitem__)
    # 100 s: b takes 20 and fails, c 30, d 15, e 5.
    assert ran == ["b", "c", "d", "e"] and list(kept) == ["c", "d", "e"] and late == []
    assert "a: measured before" in (said := capsys.readouterr().err)
    assert "b: failed, RuntimeError: out of memory" in said and "c: seconds 30" in said
    clock[0] = 50
    late = first_gpu_run.run(parts, done={"c", "d"}, left=lambda: clock[0], keep=kept.__setitem__)
    assert late == ["a"] and ran[4:] == ["b", "e"]


def test_a_bound_is_that_of_the_same_program_on_one_chip_of_the_kind(monkeypatch):
    class Device:
        device_kind = "NVIDIA H200"

    monkeypatch.setattr(gpu_parts.jax, "devices", lambda: [Device()])
    line = {
        "program": "training step", "topology": "h200:1", "images": 512, "bound ms": 20.0,
        "config": {"model": "resnet18", "dtype": "bfloat16"},
    }  # fmt: skip
    others = [
        line | {"topology": "h100:1"},
        line | {"topology": "h200:8"},
        line | {"images": 256},
        line | {"config": {"model": "resnet18", "dtype": "float32"}},
    ]

    def beside(lines):
        return gpu_parts.beside(25.0, "training step", "resnet18", 512, "bfloat16", lines)

    assert beside([*others, line]) == {"bound ms": 20.0, "bound / measured": 0.8}
    assert beside(others) == {}
    segment = line | {
        "program": "apgd-t, 10 iterations",
        "config": {"source": {"architecture": "resnet18"}},
        "bound ms": 50.0,
    }
    found = gpu_parts.beside(10.0, "apgd-t", "resnet18", 512, None, [line, segment], iterations=10)
    assert found == {"bound ms": 5.0, "bound / measured": 0.5}


def test_what_is_carried_along_is_checked(tmp_path, carried):
    images = gpu_parts.opened(str(carried))
    assert images.train.info.count + images.validation.info.count == 64 and images.test.info.count == 16
    with pytest.raises(ValueError, match=r"nowhere.npz, must be an npz file"):
        gpu_parts.opened(str(tmp_path / "nowhere.npz"))
    np.savez(tmp_path / "half.npz", x_train=np.zeros((2, 8, 8, 3), np.uint8), y_train=[0, 1])
    with pytest.raises(ValueError, match="must hold x_test"):
        gpu_parts.opened(str(tmp_path / "half.npz"))
    with pytest.raises(ValueError, match=r"--bounds is .*, must be a file of lines of JSON"):
        first_gpu_run.lines(str(tmp_path / "none.jsonl"), "--bounds")


@pytest.mark.slow
def test_every_part_runs_once(tmp_path, capsys, monkeypatch, carried):
    words = ["smoke", "--data", carried, "--out", tmp_path / "out"]
    done = scripts.call(capsys, monkeypatch, "benchmarks.first_gpu_run", *words)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in (tmp_path / "out/lines.jsonl").read_text().splitlines()]
    assert "failed" not in done.stderr, done.stderr
    names = [line["part"] for line in found]
    cfg = FirstGpuRunConfig(networks=("convnet_small",), batch_sizes=(4, 8))
    assert names == [part.name for part in gpu_parts.parts(cfg, gpu_parts.opened(str(carried)), [])]
    results = {line["part"]: line["result"] for line in found}
    assert results["segment convnet_small square"]["ms each"] > 0
    assert (
        0
        <= results["training convnet_small"]["test_robust %"]
        <= results["training convnet_small"]["test_clean %"]
    )
    again = scripts.call(capsys, monkeypatch, "benchmarks.first_gpu_run", *words)
    assert again.returncode == 0 and again.stderr.count("measured before") == len(names)
