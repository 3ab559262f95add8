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
# Of convnet_small on images of 8 x 8 x 3: 4x4 kernels to 16 and 32 channels, 100 hidden units, 10 classes.
PARAMETERS = (16 * 3 + 1) * 16 + (16 * 16 + 1) * 32 + (2 * 2 * 32 + 1) * 100 + (100 + 1) * 10


@pytest.fixture(scope="module")
def made():
    """A PGD-2 step in bfloat16 on 8 chips, 64 images each."""
    settings = ("model=convnet_small", "dtype=bfloat16", "attack.steps=2", "ema=False", "optimizer.rate=0.1")
    cfg = plan.Config("classification.train", "cifar10", batch_size=512, settings=settings)
    job = compiling.Job(cfg.script, plan.script_config(cfg), "v5e:2x4", (8, 8, 3), 10, {})
    (found,) = compiling.compiled(job)
    return found


def test_devices_exchange_sums_in_float32_and_nothing_else(made):
    program = hlo_text.Program(made.text)
    found = hlo_text.exchanges(program, program.costs())
    assert {(one.kind, one.dtype) for one in found} == {("all-reduce", "f32")}
    total = sum(one.bytes for one in found)
    assert 4 * PARAMETERS <= total <= 4 * (PARAMETERS + 8)  # and the loss and other metrics


def test_convolutions_of_the_attack_are_convolutions_in_bfloat16(made):
    program = hlo_text.Program(made.text)
    costs = program.costs()
    looped = [cost.operation for cost in costs if cost.calls == 2]
    found = [
        tuple(factor.dtype for factor in factors)
        for one in looped
        for line, _, factors in program.products(one, program.where(one))
        if line.opcode == "convolution"
    ]
    assert len(found) >= 4 and set(found) == {("bf16", "bf16")}  # 2 forwards and 2 of the input gradient
    assert not program.unknown_trips


def test_memory_and_warnings(made):
    found = bound(made, chips.topology("v5e:2x4"))
    assert found.peak < 20e6
    assert not [text for text in found.warnings if "all-" in text or "seen" in text or "two large" in text]
