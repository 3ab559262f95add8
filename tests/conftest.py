"""Shared fixtures: eight simulated devices, strict dtypes, and every pure function under every transformation."""

import gc
import os
import resource
import tempfile
from importlib.metadata import version
from pathlib import Path

# Compiling is most of the time of these tests, and most of that is optimising code that runs once: in one piece and
# without its fusion emitters (JAX 0.11 cannot do without), a program compiles in a quarter of the time. Scripts in
# processes of their own inherit that, unless they are to be compiled as users would compile them.
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        "--xla_backend_optimization_level=0",
        "--xla_cpu_parallel_codegen_split_count=1",
        *(["--xla_cpu_use_fusion_emitters=false"] if version("jaxlib").startswith(("0.9.", "0.10.")) else []),
    ]
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# scikit-learn's threads wait for one another by spinning: on cores that are busy that is six times the work.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Nothing is left in the home directory. Workers, scripts in processes of their own and one run after another share what
# they compiled; the flags above are part of a program's key.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", f"{tempfile.gettempdir()}/robustjax_tests_{os.getuid()}")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import annotations
import jax
import pytest
from jax.sharding import PartitionSpec as P

annotations.install()

# Tracing makes many objects and few cycles: looking for these less often saves one second in thirty.
gc.set_threshold(100_000, 20, 50)

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "allow")


# What a contributor runs between edits (`make test-fast`): files that compile little.
FAST = {
    "test_checks.py", "test_house.py", "test_logit.py", "test_numerics.py",
    "test_detection_metrics.py", "test_fitting.py", "test_progress.py", "test_record.py",
    "test_report.py", "test_run_folder.py", "test_results.py", "test_intervals.py",
}  # fmt: skip


def pytest_ignore_collect(collection_path, config):
    """Do not even import the others where what is fast is asked for: that alone takes half a minute."""
    if config.option.markexpr == "fast" and collection_path.name.startswith("test_"):
        return collection_path.name not in FAST or None
    return None


# Annotations must be true and arrays of different rank are not joined, except where this says why not.
EXEMPT = (
    "experiments",  # scripts in processes of their own, and what these trained
    "test_guides.py",  # runs what users write, who broadcast as they like
    "test_fuzz.py",  # gives values of any type on purpose, NumPy's for JAX's as users do
)
# Where only what `make test` leaves out is exempt: it is not yet clean.
EXEMPT_IF_SLOW = (
    "analysis", "catalog", "data", "evaluation", "losses", "models", "ood", "perturbations", "runtime",
    "test_api.py", "test_api_certify.py", "test_api_ood.py", "test_training.py",
)  # fmt: skip


def strict(test):
    """Say whether a test is one of those that are checked."""
    place = test.path.relative_to(Path(__file__).parent).parts[0]
    slow = place in EXEMPT_IF_SLOW and test.get_closest_marker("slow") is not None
    return place not in EXEMPT and not slow


@pytest.fixture(autouse=True)
def _strict(request):
    """Say what is untrue, and raise where ranks differ."""
    annotations.wanted = strict(request.node)
    with jax.numpy_rank_promotion("raise" if annotations.wanted else "allow"):
        yield
    annotations.wanted = False  # fixtures of the next module run before this one


def pytest_collection_modifyitems(items):
    """Mark what is fast."""
    for item in items:
        if item.path.name in FAST:
            item.add_marker(pytest.mark.fast)


@pytest.fixture(scope="module", autouse=True)
def _forget_compiled_programs():
    """Keep the workers small: thousands of tests compile gigabytes of programs."""
    yield
    if resident() > 3 * 2**30:
        jax.clear_caches()


def resident():
    """Read how much memory this process holds, in bytes; without /proc, the most that it ever held."""
    try:
        with open("/proc/self/statm") as f:
            return int(f.read().split()[1]) * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _vmap(f):
    """Map over the examples one at a time, each as a batch of one, in one program."""
    return jax.jit(jax.vmap(lambda *a: jax.tree.map(lambda v: v[0], f(*jax.tree.map(lambda v: v[None], a)))))


def _pmap(f):
    def mapped(*args):
        split = jax.tree.map(lambda v: v.reshape(2, -1, *v.shape[1:]), args)
        return jax.tree.map(
            lambda v: v.reshape(-1, *v.shape[2:]), jax.pmap(f, devices=jax.devices()[:2])(*split)
        )

    return mapped


def _shard_map(f):
    mesh = jax.make_mesh((2,), ("data",), devices=jax.devices()[:2], axis_types=(jax.sharding.AxisType.Auto,))
    return jax.jit(jax.shard_map(f, mesh=mesh, in_specs=P("data"), out_specs=P("data")))


# Not eagerly: most other tests call functions so, and every operation of every shape is a program to be compiled.
VARIANTS = {"jit": jax.jit, "vmap": _vmap, "pmap": _pmap, "shard_map": _shard_map}


@pytest.fixture(params=list(VARIANTS))
def variant(request):
    """Transform a function of arrays that all lead with an even batch dimension (per-example keys included)."""
    return VARIANTS[request.param]
