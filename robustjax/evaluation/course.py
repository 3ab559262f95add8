"""Where a suite of attacks stands, on the host, and how that is kept in a file."""

import dataclasses
import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from robustjax.attacks.autoattack import Trial
from robustjax.evaluation import pool
from robustjax.evaluation.pool import Pool
from robustjax.evaluation.verdicts import BROKEN, NOT_RUN, RESISTED

NONE = np.iinfo(np.int64).max
PER_EXAMPLE = ("clean", "targets", "x", "value", "source", "broke")
PER_ATTACK = ("outcome", "margin", "steps", "seconds")


@dataclasses.dataclass
class Course:
    """All that changes while a suite runs. A unit of work is run * images + example.

    Attributes:
      trial: the attack that runs now, `next` its first unit that has not begun.
      clean, targets: (n,) prediction on the image, (n, t) wrong classes by falling logit there.
      x, value: strongest point so far and its margin; `source` is the run of this attack that it is from, NONE
        if it is from an earlier attack or the image itself.
      broke: (n,) the lowest run of this attack that broke the image, NONE if none did.
      outcome, margin, steps, seconds: as in `Verdicts`.
    """

    trial: int
    next: int
    clean: np.ndarray
    targets: np.ndarray
    x: np.ndarray
    value: np.ndarray
    source: np.ndarray
    broke: np.ndarray
    outcome: np.ndarray
    margin: np.ndarray
    steps: np.ndarray
    seconds: np.ndarray
    rows: Pool

    def waiting(self, able: np.ndarray, runs: int, most: int) -> np.ndarray:
        """List the next units of the images that may be attacked and have not been broken, `most` at most."""
        n = len(able)
        found: list[np.ndarray] = []
        missing, unit = most, self.next
        while missing > 0 and unit < runs * n:
            run, example = divmod(unit, n)
            block = np.flatnonzero((able & (self.broke == NONE))[example:])[:missing] + example
            found.append(run * n + block)
            missing -= len(block)
            unit = (run + 1) * n
        return np.concatenate(found) if found else np.zeros(0, np.int64)

    def record(self, done: np.ndarray, value: np.ndarray, x: np.ndarray, counted: np.ndarray) -> None:
        """Take note of the rows whose run is over; only the `counted` images may change their point."""
        here = self.trial
        for row in done:
            i, run, merit = self.rows.example[row], self.rows.run[row], value[row]
            merit = -np.inf if np.isnan(merit) else merit
            hit, first = merit > 0, run < self.broke[i]
            margin = self.margin[here, i]
            # A broken image counts with its first run, as if they had run in turn.
            if (hit and first) or (self.broke[i] == NONE and not margin >= merit):
                self.margin[here, i] = merit
            if hit and first:
                self.broke[i] = run
            self.outcome[here, i] = BROKEN if self.broke[i] != NONE else RESISTED
            stronger = merit > self.value[i] or (merit == self.value[i] and run < self.source[i] != NONE)
            if counted[i] and ((hit and first) or (self.broke[i] == NONE and stronger)):
                self.x[i], self.value[i], self.source[i] = x[row], merit, run
            self.rows.example[row] = pool.FREE

    def conclude(self) -> None:
        """Go on to the next attack."""
        self.source[:], self.broke[:] = NONE, NONE
        self.trial, self.next, self.rows = self.trial + 1, 0, Pool.empty()


def begin(
    images: np.ndarray, clean: np.ndarray, value: np.ndarray, targets: np.ndarray, attacks: int
) -> Course:
    """Start before the first attack, from float images and what one pass over them said."""
    n, table = len(clean), (attacks, len(clean))
    return Course(
        trial=0,
        next=0,
        clean=clean,
        targets=targets,
        x=images.copy(),
        value=value.copy(),
        source=np.full(n, NONE),
        broke=np.full(n, NONE),
        outcome=np.full(table, NOT_RUN, np.int8),
        margin=np.full(table, np.nan, np.float32),
        steps=np.zeros(attacks, np.int64),
        seconds=np.zeros(attacks),
        rows=Pool.empty(),
    )


def packed(course: Course, owner: str) -> dict[str, np.ndarray]:
    """Turn a course into arrays by name; `owner` says which evaluation it belongs to."""
    rows = course.rows
    arrays = {name: getattr(course, name) for name in PER_EXAMPLE + PER_ATTACK}
    arrays |= {f"rows.{name}": getattr(rows, name) for name in ("example", "run", "step")}
    arrays |= {f"state.{i}": leaf for i, leaf in enumerate(pool.on_host(rows.state))}
    numbers = np.array([course.trial, course.next, rows.count])
    return {**arrays, "numbers": numbers, "owner": np.array(owner)}


def unpacked(
    arrays: dict[str, np.ndarray], owner: str, suite: tuple[Trial, ...], sharding: NamedSharding | None
) -> Course:
    """Undo `packed`.

    Raises:
      ValueError: if the arrays belong to another evaluation.
    """
    if str(arrays["owner"]) != owner:
        raise ValueError(
            f"suite: the progress found belongs to evaluation {arrays['owner']}, must be of this one, {owner}: "
            "the same images, labels, key, radius and attacks; start elsewhere or remove it"
        )
    trial, following, count = (int(number) for number in arrays["numbers"])
    rows = Pool(*(arrays[f"rows.{name}"].copy() for name in ("example", "run", "step")), count=count)
    if len(rows.example):
        x = arrays["x"]
        shapes = jax.eval_shape(
            lambda: pool.blank(suite[trial], jnp.zeros((len(rows.example), *x.shape[1:])))
        )
        leaves = [arrays[f"state.{i}"] for i in range(len(jax.tree.leaves(shapes)))]
        rows.state = pool.on_device(leaves, shapes, sharding)
    fields: dict[str, Any] = {name: arrays[name].copy() for name in PER_EXAMPLE + PER_ATTACK}
    return Course(trial=trial, next=following, rows=rows, **fields)


def owner(*parts: Any) -> str:
    """Hash what decides an evaluation: arrays and texts."""
    digest = hashlib.sha256()
    for part in parts:
        array = np.ascontiguousarray(part)
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()[:16]
