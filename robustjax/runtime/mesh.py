"""Devices: one axis named `data`, over every device of every process."""

import contextlib
import os
import sys
import traceback
from collections.abc import Sequence
from types import TracebackType
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

MOST_CPU_DEVICES = 16  # each has a copy of the network
HEARTBEAT_SECONDS = 20  # a process that is silent for longer is lost; JAX then ends the others
LOST = 75  # EX_TEMPFAIL of sysexits.h: nothing is wrong with the job, start it again
Tree = TypeVar("Tree")


def one_device_per_core() -> None:
    """Split the CPU into as many devices as this process may use cores, 16 at most, unless told otherwise or too late.

    Call it before anything touches a device. The routines of one device leave cores idle that have little to do;
    with rows cut over devices, each keeps its own core busy. Accelerators are not concerned.
    """
    if "host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        with contextlib.suppress(RuntimeError):  # a device was touched
            jax.config.update("jax_num_cpu_devices", min(cores or 1, MOST_CPU_DEVICES))


def data_mesh(devices: Sequence[Any] | None = None) -> Mesh:
    """Lay devices along one axis `data`; by default all of them, of all processes.

    The axis is Auto: with jax's default, Explicit, sorts and gathers over the batch do not trace.

    Raises:
      ValueError: if `devices` is empty.
    """
    found = jax.devices() if devices is None else list(devices)
    if not found:
        raise ValueError("data_mesh: devices is empty, must hold at least one device")
    return Mesh(np.asarray(found), ("data",), axis_types=(AxisType.Auto,))


def over_data(mesh: Mesh) -> NamedSharding:
    """Cut the leading dimension over the devices: the sharding of a batch."""
    return NamedSharding(mesh, PartitionSpec("data"))


def replicated(mesh: Mesh) -> NamedSharding:
    """Give every device the whole array: the sharding of a train state."""
    return NamedSharding(mesh, PartitionSpec())


def place(tree: Tree, mesh: Mesh) -> Tree:
    """Copy a pytree of arrays (typed keys included) to every device of the mesh.

    With several processes every one of them must hold the same values; each fills its own devices.
    """
    sharding = replicated(mesh)

    def spread(value: np.ndarray | jax.Array) -> jax.Array:
        host = np.asarray(value)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    def leaf(value: jax.Array | np.ndarray | float) -> jax.Array:
        if isinstance(value, jax.Array) and value.sharding == sharding:
            return value
        if isinstance(value, jax.Array) and jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(
                spread(jax.random.key_data(value)), impl=jax.random.key_impl(value)
            )
        return spread(jax.numpy.asarray(value))  # a Python number takes jax's dtype, not numpy's

    return jax.tree.map(leaf, tree)


def distributed(
    enabled: bool, coordinator: str | None = None, processes: int | None = None, process_id: int | None = None
) -> None:
    """Join the other processes of this run; call it before anything touches a device.

    On Slurm, Cloud TPU, Kubernetes and Open MPI everything is found in the environment. Elsewhere, and to
    try it on one machine, give every process the three addresses. If a process is lost, the others end within
    half a minute: with exit code `LOST` where an exchange fails, else JAX's heartbeats end them with 134
    (SIGABRT). Either way the same command, started again, goes on from the last checkpoint.

    Args:
      enabled: False does nothing.
      coordinator: "host:port" of process 0.
      processes: how many there are.
      process_id: which one this is.
    Raises:
      ValueError: if some of the three addresses are given and some are not.
    """
    if not enabled:
        return
    given = [value is not None for value in (coordinator, processes, process_id)]
    if any(given) and not all(given):
        raise ValueError(
            f"distributed: coordinator={coordinator!r}, processes={processes!r}, process_id={process_id!r}, "
            "must be given all together or, where the cluster tells them, not at all"
        )
    # Read only by CPU clients, which otherwise cannot talk across processes.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    if not jax.distributed.is_initialized():
        with contextlib.suppress(
            AttributeError
        ):  # not in every version; it would take SIGTERM from `stopping`
            jax.config.update("jax_enable_preemption_service", False)
        jax.distributed.initialize(
            coordinator_address=coordinator,
            num_processes=processes,
            process_id=process_id,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
        sys.excepthook = _end_at_once


def _end_at_once(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """End a process that failed without waiting for the others, who wait for it."""
    if issubclass(kind, jax.errors.JaxRuntimeError):
        os.write(
            2, f"process {jax.process_index()} lost another one: {error}\nstart all of them again\n".encode()
        )
        os._exit(LOST)
    traceback.print_exception(kind, error, trace)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
