"""Attack a classifier behind a gate and a translator, any of them; the hard defence decides about every point."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import PRNGKeyArray

from robustjax import checks
from robustjax.attacks import gated_objectives
from robustjax.evaluation.defence_results import DefenceResults
from robustjax.evaluation.defences import GatedAnswers, Known, Systems, as_argument
from robustjax.evaluation.gated_cases import GatedCase, cases_of, goal_of
from robustjax.evaluation.runner import Attacked, Examples, Memory, Progress, ask, runner
from robustjax.evaluation.suite import as_floats
from robustjax.ood.translate import Defence
from robustjax.threats import Threat


def evaluate(
    key: PRNGKeyArray,
    defence: Defence,
    x: Any,
    y: Any,
    threat: Threat,
    plan: Sequence[GatedCase],
    *,
    batch_size: int = 128,
    samples: int | None = None,
    chunk_size: int | None = None,
    source: Defence | None = None,
    pool: tuple[Any, Any] | None = None,
    every: bool = True,
    sharding: NamedSharding | None = None,
    memory: Callable[[str], Memory] | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> DefenceResults:
    """Run attacks one after the other on the runner of all evaluations.

    A search works on the examples that those before it, of the same attack, did not bring where they should go, in full
    batches of one size, so that every kind of search compiles once; losses, penalties, radii and, for defences made of
    `jax.tree_util.Partial`s, parameters are arguments.

    Args:
      key: one key; example i uses `fold_in(key, i)`, a random translator fixed draws from it, unless `samples`.
      defence: f, T and gate; T may be random.
      x, y: images and labels.
      threat: where points may lie; its radius is an argument of what is compiled.
      plan: what to try, of `gated_cases`.
      batch_size: rows on the device.
      samples: for a random T, draws to average in every value, gradient and answer (EOT); None to fix the draw.
      chunk_size: of these draws at a time, all by default: memory is that of so many times the rows.
      source: another defence, for searches of kind TM4, which see nothing else.
      pool: images and labels of benign examples, whose features are matched.
      every: run every attack on all examples, not only on those that are robust to the ones before it.
      sharding: of the rows, such as `runtime.over_data(mesh)`.
      memory: gives each attack, by name, where to keep its progress and take it up again.
      progress: called with `Progress` after every segment.
    Raises:
      ValueError: if a search needs a source, a pool or features that are not given, or nothing is to be attacked.
    """
    threat = jax.tree.map(jnp.float32, threat)
    if chunk_size is not None:
        checks.count("evaluate", "chunk_size", chunk_size)
    images, labels = as_floats(np.asarray(x)), np.asarray(y, np.int32)
    if not len(images) or not plan:
        raise ValueError(
            f"evaluate: {len(images)} images and {len(plan)} cases given, must be at least one of each"
        )
    check(plan, defence, source, pool)
    system = as_argument(defence)
    systems = system, system if source is None else as_argument(source)
    size = min(batch_size, len(images))
    settings: dict[str, Any] = {"batch_size": size, "smallest": size, "sharding": sharding}
    answers = GatedAnswers(samples, chunk_size)

    nothing = np.zeros((len(labels), 0), np.int32)
    examples = Examples(images, Known(labels, nothing, nothing), np.arange(len(labels)))
    clean = ask(answers, Systems, size, sharding, key, examples, np.arange(len(labels)), images, systems)
    classes = clean["plain"].shape[1]
    others = np.where(np.arange(classes) == labels[:, None], np.inf, -clean["plain"])
    likeliest = np.argsort(others, axis=1)[:, : classes - 1].astype(np.int32)

    found: list[Attacked] = []
    names = list(dict.fromkeys(one.attack for one in plan))
    broken = clean["merit"] > 0
    for name in names:
        searches = [one for one in plan if one.attack == name]
        goal = goal_of(searches)
        known = Known(labels, likeliest, nothing)
        if any(one.surrogate is gated_objectives.matched for one in searches):
            ranks = 1 + max(one.rank for one in searches)
            known = _matched(known, system, images, pool, ranks)
        run = runner(
            Systems, partial(cases_of, searches, samples=samples, chunk_size=chunk_size), answers,
            partial(_reached, goal),
            until=goal, **settings,
        )  # fmt: skip
        one = run(
            key,
            examples._replace(data=known),
            threat,
            *systems,
            clean=clean,
            already=None if every else broken,
            memory=memory(name) if memory else None,
            progress=progress,
        )
        broken = broken | (one.final["merit"] > 0)
        found.append(one)
    return _results(plan, labels, clean, names, found)


def _results(
    plan: Sequence[GatedCase],
    labels: np.ndarray,
    clean: dict[str, np.ndarray],
    names: Sequence[str],
    found: Sequence[Attacked],
) -> DefenceResults:
    models = {one.attack: one.model for one in plan}
    final = {name: np.stack([one.final[name] for one in found]) for name in ("merit", "margin", "gap")}
    ran = np.stack([(one.outcome >= 0).any(axis=0) for one in found])
    return DefenceResults(
        attacks=tuple(names),
        models=tuple(models[name] for name in names),
        label=labels,
        plain=clean["plain"],
        through=clean["through"],
        routed=~(clean["gap"] <= 0),
        wrong=final["merit"] > 0,
        unseen=final["merit"] > 0.5 * gated_objectives.UNSEEN,
        tried=ran | (clean["merit"] > 0),
        margin=final["margin"],
        score=-final["gap"],
        x=np.stack([one.x for one in found]),
        feasible=np.array([one.feasible.all() for one in found]),
        gradients=np.array([one.steps.sum() for one in found]),
        seconds=np.array([one.seconds.sum() for one in found]),
        runs=np.array([one.runs.sum() for one in found]),
    )


def _reached(goal: float, answers: dict[str, np.ndarray], known: Known) -> np.ndarray:
    del known
    return answers["merit"] > goal


def check(plan: Sequence[GatedCase], defence: Defence, source: Any, pool: Any) -> None:
    """Check that what a plan needs is there.

    Raises:
      ValueError: if not.
    """
    if source is None and any(one.from_source for one in plan):
        raise ValueError("evaluate: the plan transfers from a source, give one")
    if any(one.surrogate is gated_objectives.matched for one in plan) and (
        pool is None or not defence.features
    ):
        raise ValueError(
            "evaluate: the plan matches features, give features in the defence and a pool of images"
        )


def _matched(known: Known, system: Defence, images: np.ndarray, pool: Any, ranks: int) -> Known:
    """Find the benign images of other classes whose features are nearest."""
    benign, labels = jnp.asarray(pool[0], jnp.float32), np.asarray(pool[1])
    ours, theirs = (
        tuple(np.asarray(one(z)) for one in system.features) for z in (jnp.asarray(images), benign)
    )
    away = np.zeros((len(images), len(benign)))
    for a, b in zip(ours, theirs, strict=True):
        lengths = np.square(b).sum(axis=1)
        away += (np.square(a).sum(axis=1)[:, None] + lengths - 2 * a @ b.T) / max(
            float(lengths.mean()), 1e-30
        )
    away = np.where(labels[None] == np.asarray(known.label)[:, None], np.inf, away)
    chosen = np.argsort(away, axis=1)[:, :ranks]
    return known._replace(matched=labels[chosen].astype(np.int32), features=tuple(b[chosen] for b in theirs))
