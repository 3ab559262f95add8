"""One axis over all devices, on which batches are cut and states copied."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustjax.runtime import data_mesh, distributed, over_data, place, replicated


def test_the_axis_is_auto_and_spans_every_device():
    mesh = data_mesh()
    assert mesh.axis_names == ("data",) and mesh.size == 8
    assert mesh.axis_types == (jax.sharding.AxisType.Auto,)
    assert data_mesh(jax.devices()[2:5]).size == 3
    with pytest.raises(ValueError, match="devices is empty"):
        data_mesh([])


def test_a_batch_is_cut_and_a_state_copied():
    mesh = data_mesh()
    batch = jax.device_put(jnp.arange(16.0).reshape(16, 1), over_data(mesh))
    assert [shard.data.shape for shard in batch.addressable_shards] == [(2, 1)] * 8
    # What Explicit axes refuse: a gather and a sort over the batch.
    mixed = jax.jit(lambda x: jnp.sort(x[jnp.asarray([3, 0, 5])], axis=0))(batch)
    np.testing.assert_array_equal(mixed[:, 0], [0.0, 3.0, 5.0])


def test_place_copies_every_leaf_and_keeps_its_kind():
    mesh = data_mesh()
    tree = {
        "w": np.arange(4, dtype=np.float16),
        "key": jax.random.split(jax.random.key(1), 3),
        "n": 2,
        "none": None,
    }
    placed = place(tree, mesh)
    for leaf in jax.tree.leaves(placed):
        assert leaf.sharding.is_fully_replicated and len(leaf.sharding.device_set) == 8
    assert placed["w"].dtype == jnp.float16 and placed["n"].dtype == jnp.int32 and placed["none"] is None
    np.testing.assert_array_equal(jax.random.bits(placed["key"][1]), jax.random.bits(tree["key"][1]))
    assert placed["w"].sharding == replicated(mesh)
    assert place(placed, mesh)["w"] is placed["w"]


def test_distributed_wants_all_addresses_or_none():
    distributed(False, "localhost:1", 2, 0)
    with pytest.raises(ValueError, match="processes=None"):
        distributed(True, coordinator="localhost:1", process_id=0)


@pytest.mark.slow
@pytest.mark.parametrize("flags, expected", [("", None), ("--xla_force_host_platform_device_count=3", 3)])
def test_every_core_is_a_device_unless_told_otherwise_or_too_late(flags, expected):
    program = """
import os, jax
from robustjax.runtime import mesh
mesh.MOST_CPU_DEVICES = int(os.environ["MOST"])
mesh.one_device_per_core()
count = len(jax.devices())
mesh.MOST_CPU_DEVICES = 7
mesh.one_device_per_core()
assert len(jax.devices()) == count
print(count)
"""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    for most in (1, 2):
        env = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "MOST": str(most)}
        done = subprocess.run(
            [sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True
        )
        assert int(done.stdout) == (expected or min(cores, most))
