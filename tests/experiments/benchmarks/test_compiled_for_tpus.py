"""What the compiler for TPUs makes of a training step, on a host without one: `make accelerators`."""

from importlib.util import find_spec

import pytest

from experiments.benchmarks import chips, compiling, hlo_text, plan
from experiments.benchmarks.time_bounds import bound

pytestmark = [
    pytest.mark.slow,
    pytest.mark.accelerator,
    pytest.mark.skipif(
        find_spec("libtpu") is None, reason="needs the compiler for TPUs: pip install -e '.[plan]'"
    ),
]


@pytest.fixture(scope="module")
def made():
    """A PGD-2 step of a small residual network on 8 chips, 4 images each."""
    settings = ("model=resnet18", "dtype=bfloat16", "attack.steps=2", "ema=False")
    cfg = plan.Config(
        "classification.train", "cifar10", topology=("v5e:2x4",), batch_size=32, settings=settings
    )
    job = compiling.Job(cfg.script, plan.script_config(cfg), "v5e:2x4", (8, 8, 3), 10, {})
    (found,) = compiling.compiled(job)
    return found


def test_devices_exchange_sums_in_float32_and_nothing_else(made):
    program = hlo_text.Program(made.text)
    found = hlo_text.exchanges(program, program.costs())
    assert {(one.kind, one.dtype) for one in found} == {("all-reduce", "f32")}
    # 11,173,962 parameters; beside them only BatchNorm's moments.
    assert 4 * 11_173_962 <= sum(one.bytes for one in found) < 1.02 * 4 * 11_173_962


def test_convolutions_are_convolutions_in_bfloat16(made):
    program = hlo_text.Program(made.text)
    lines = [
        (line, factors)
        for cost in program.costs()
        for line, _, factors in program.products(cost.operation, program.where(cost.operation))
    ]
    convolutions = [factors for line, factors in lines if line.opcode == "convolution"]
    # 20 convolutions: the attack's start, value and input gradient, the update's value and both gradients.
    assert len(convolutions) >= 20 * 5
    assert {f.dtype for factors in convolutions for f in factors} == {"bf16"}


def test_memory_and_warnings(made):
    found = bound(made, chips.topology("v5e:2x4"))
    assert found.peak < 300e6  # parameters and momentum are 89 MB
    assert not [text for text in found.warnings if "all-" in text or "loop" in text]
