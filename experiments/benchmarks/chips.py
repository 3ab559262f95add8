"""What accelerators can do at most, and how to compile for them on a host that has none."""

import math
import os
import re
from typing import Any, Literal, NamedTuple


class Chip(NamedTuple):
    """The peaks of a chip, as its vendor publishes them.

    Attributes:
      platform: what XLA calls it.
      flops: products and their sums per second in bfloat16, dense.
      bandwidth: of main memory, bytes per second.
      memory: bytes of main memory.
      clock: cycles per second, in which the compiler counts; 0 where it does not.
      source: where the numbers are from.
    """

    platform: Literal["tpu", "cuda"]
    flops: float
    bandwidth: float
    memory: float
    clock: float
    source: str


CLOUD = "cloud.google.com/tpu/docs/{}, system architecture; clock: what libtpu 0.0.52 counts in"
CHIPS = {
    "v5e": Chip("tpu", 197e12, 819e9, 16 * 2**30, 1.503e9, CLOUD.format("v5e")),
    "v5p": Chip("tpu", 459e12, 2765e9, 95 * 2**30, 1.751e9, CLOUD.format("v5p")),
    "v6e": Chip("tpu", 918e12, 1640e9, 32 * 2**30, 1.751e9, CLOUD.format("v6e")),
    "h100": Chip("cuda", 989e12, 3.35e12, 80e9, 0.0, "NVIDIA H100 data sheet, SXM5, without sparsity"),
    "h200": Chip("cuda", 989e12, 4.8e12, 141e9, 0.0, "NVIDIA H200 data sheet, SXM5, without sparsity"),
}
# Keeps libtpu from looking for a chip, and quiet; to be set before jax is imported.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
# What XLA asks to know of a GPU; an H200 is an H100 with other memory.
HOPPER = """
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 shared_memory_per_core: 233472
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128 block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535 block_dim_limit_z: 65535 memory_bandwidth: {bandwidth} l2_cache_size: 52428800
  clock_rate_ghz: 1.98 device_memory_size: {memory} shared_memory_per_block_optin: 232448
  cuda_compute_capability {{ major: 9 }} registers_per_core_limit: 65536 registers_per_block_limit: 65536
}}
platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 12 patch: 0 }}
runtime_version {{ major: 13 minor: 0 patch: 0 }} device_description_str: "{name}"
"""


class Topology(NamedTuple):
    """A kind of chip and how many of them, side by side."""

    name: str
    chip: Chip
    sides: tuple[int, ...]

    @property
    def chips(self) -> int:
        """Count them."""
        return math.prod(self.sides)


def topology(text: str) -> Topology:
    """Read a topology: v5e:2x4, v5p:2x2x1, h100:8.

    Raises:
      ValueError: for another chip, sides that are no numbers, or more than 256 chips.
    """
    name, _, sides = text.partition(":")
    if name not in CHIPS or not re.fullmatch(r"[1-9]\d*(x[1-9]\d*){0,2}", sides):
        raise ValueError(
            f"--topology is {text!r}, must be one of {', '.join(CHIPS)}, a colon and sides, such as v5e:2x4 or h100:8"
        )
    found = Topology(name, CHIPS[name], tuple(map(int, sides.split("x"))))
    if found.chip.platform == "tpu" and len(found.sides) != (3 if name == "v5p" else 2):
        raise ValueError(
            f"--topology is {text!r}, must have {3 if name == 'v5p' else 2} sides: {name} is wired so"
        )
    if found.chips > 256:
        raise ValueError(f"--topology is {text!r} of {found.chips} chips, must be at most 256")
    return found


def devices(where: Topology) -> list[Any]:
    """Describe the chips to jax: devices that programs can be compiled for and cannot run on.

    Raises:
      ValueError: if the compiler is not installed.
    """
    from jax.experimental import topologies  # the environment is set before jax is imported

    sides = "x".join(map(str, where.sides))
    try:
        if where.chip.platform == "tpu":
            os.environ.update(ENVIRONMENT)
            return list(
                topologies.get_topology_desc(platform="tpu", topology_name=f"{where.name}:{sides}").devices
            )
        config = HOPPER.format(
            bandwidth=round(where.chip.bandwidth),
            memory=round(where.chip.memory),
            name=f"NVIDIA {where.name.upper()}",
        )
        found = topologies.get_topology_desc(
            platform="cuda", target_config=config, topology=f"1x1x{where.chips}"
        )
        return list(found.devices)
    except (RuntimeError, NotImplementedError, ImportError) as error:
        raise ValueError(
            f"--topology is {where.name}:{sides}, must be one whose compiler is installed: pip install "
            f"'.[{'plan' if where.chip.platform == 'tpu' else 'cuda'}]' ({str(error).splitlines()[0]})"
        ) from None
