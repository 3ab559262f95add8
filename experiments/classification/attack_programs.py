"""What an attack on a classifier runs most of its time, for `benchmarks.plan`: a program for each attack."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from experiments.classification.config import AttackConfig
from experiments.shared import attack_segments
from experiments.shared.planned import Planned, placed
from robustjax import runtime
from robustjax.data.known import KNOWN
from robustjax.data.subsets import rule
from robustjax.evaluation import pool
from robustjax.models.architectures import architecture
from robustjax.threats import Threat
from robustjax.types import Model

ITERATIONS = 10  # of a segment


def planned(cfg: AttackConfig, mesh: Mesh, *, shape: tuple[int, ...], classes: int) -> list[Planned]:
    """List a segment of each attack, of ten iterations in a full batch of rows, as an evaluation runs it.

    Calls are counted for images that all stay robust, which is the most work: every run of every attack goes to its
    end. Drawing starts, which a segment does where images enter, is in it. Verdicts, once an attack, are left out.

    Args:
      cfg: the settings; `source.architecture` names the network, whose weights need not be there.
      mesh: of devices, which need not be there.
      shape, classes: of the images.
    Raises:
      ValueError: if no architecture is named.
    """
    if not cfg.source.architecture:
        raise ValueError("source.architecture is missing, must name a network to be planned")
    model = architecture(cfg.source.architecture)(classes=classes, shape=shape)
    threat = Threat(*cfg.ball())
    cases = partial(cfg.cases, classes=classes)
    rows = math.ceil(cfg.batch_size / mesh.size) * mesh.size
    batches = math.ceil(images(cfg) / rows)
    return [
        Planned(
            f"{case.name}, {ITERATIONS} iterations",
            partial(traced, cases, place, model, threat, mesh, rows, shape),
            rows,
            batches * case.runs * math.ceil(case.solver.length / ITERATIONS),
        )
        for place, case in enumerate(cases(threat))
    ]


def images(cfg: AttackConfig) -> int:
    """Count the images: those asked for, or all test images of a known set."""
    known = KNOWN.get(cfg.source.dataset_of())
    whole = known.counts.get("test", 10_000) if known else 10_000
    return whole if cfg.images is None else min(rule(cfg.images).images, whole)


def traced(
    cases: pool.Cases,
    place: int,
    model: Model,
    threat: Threat,
    mesh: Mesh,
    rows: int,
    shape: tuple[int, ...],
) -> Any:
    """Trace one segment for rows that are cut over the mesh."""
    listed, axes = tuple(cases(threat)), mesh.axis_names
    arguments = jax.eval_shape(model.init, jax.random.key(0))
    state, fresh = attack_segments.shapes(listed[place], listed, model, arguments, rows, shape)
    sharding = runtime.over_data(mesh) if mesh.size > 1 else None
    segments = attack_segments.Segments(cases, place, model, sharding)
    whole = jax.eval_shape(lambda: (jax.random.key(0), jax.tree.map(jnp.float32, threat)))
    program: Any = segments.program(listed[place], ITERATIONS, until=0.0)
    return program.trace(
        placed(state, mesh, *axes), placed(fresh, mesh, *axes), *placed((*whole, arguments), mesh)
    )
