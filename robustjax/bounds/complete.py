"""Complete verification: cut the threat into sub-domains until each is certified, or a point is misclassified."""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from robustjax import checks
from robustjax.bounds import open_domains
from robustjax.bounds.backward import Moved
from robustjax.bounds.branching import Programs, compiled
from robustjax.bounds.domains import Domain
from robustjax.bounds.open_domains import Queue
from robustjax.bounds.search_state import Memory, Search, packed, restored
from robustjax.threats import Threat
from robustjax.types import LogitsFn, Model, Network, frozen

Status = Literal["certified", "attacked", "undecided"]
FIRST_STEPS = 40  # of Adam on the whole threat: sub-domains start from its slopes
ROUNDING = 1e-4  # what a bound must exceed that holds up to rounding
_FADING = 0.03  # of the rates of Adam, over all steps
_TOGETHER = 5  # steps between two looks at the bounds


class Verdict(NamedTuple):
    """What was found out about one example.

    Attributes:
      status: "certified": no point of the threat is misclassified; "attacked": `point` is; else "undecided".
      lower: at most the least lead, over the threat, of the label's logit over the largest other one.
      upper: the least lead of the points met.
      point: where that is.
      bounded: how many sub-domains were bounded.
      roots: bounds before the first cut, by CROWN and with slopes optimised; then, if none decided, the same over
        tightened intervals. None where the budget ended before.
    """

    status: Status
    lower: float
    upper: float
    point: np.ndarray
    bounded: int
    roots: tuple[float, ...]


class Settings(NamedTuple):
    """What stays the same.

    Attributes:
      run: the programs.
      threat: the ball.
      batch_size, steps, depth: sub-domains at a time, steps for each, its cuts at most.
      tighten: whether to optimise the slopes behind the intervals inside, before the first cut.
      above: what bounds must exceed.
      going: whether the budget lasts.
    """

    run: Programs
    threat: Threat
    batch_size: int
    steps: int
    depth: int
    tighten: bool
    above: float
    going: Callable[[], bool]


def always() -> bool:
    """Go on without a budget."""
    return True


def branch_and_bound(
    network: LogitsFn | Network,
    threat: Threat,
    *,
    inputs: bool = False,
    batch_size: int = 64,
    steps: int = 15,
    candidates: int = 3,
    depth: int = 64,
    tighten: bool = False,
    chunk: int = 256,
    outward: bool = True,
) -> Callable[..., Verdict]:
    """Decide for one example at a time whether any point of a threat is misclassified.

    Every other class, over the whole threat, is a sub-domain at first. The one with the lowest bound is cut in two at a
    number that a ReLU (or another curve) reads, or at one of the input: of the candidates, ranked by `cuts`, at the one
    whose halves have the best bounds. Halves that beta-CROWN bounds above 0 are certified; the others are cut again.
    If `outward`, bounds hold for the network as computed in floating point, see `rounding`.

    Args:
      network: images (b, h, w, c) -> logits, made of the operations that `bounds` knows; or a `Network`, whose programs
        are compiled once for all its weights.
      threat: norm, radius and box.
      inputs: cut the input alone, and bound every hidden number anew in each half: for inputs of few numbers. Else the
        input is cut when no curve is left.
      batch_size: sub-domains on the device together.
      steps: of Adam for each.
      candidates: cuts that are tried.
      depth: cuts of one sub-domain at most; then it is given up.
      tighten: before the first cut, optimise the slopes behind the intervals inside, for every number for which it is
        open in which piece of its curve it lies; not with `inputs`, which bounds them anew anyway. It costs as much as
        some thousand sub-domains.
      chunk: numbers of a hidden layer that go back at a time, on both sides.
      outward: add what rounding can do in whatever order sums are taken, which costs deep networks a part of their
        certificates; else a sub-domain is certified if its bound is above 1e-4, and holds up to rounding.

    Returns:
      verify(x, label, going=always, memory=None) -> Verdict, for one image (h, w, c) and its class. `going` is asked
      between batches whether to go on; once it says no, the example is undecided. `memory` keeps the search between
      cuts: what was kept is taken up, and ends as if it had not stopped. Programs are compiled by the first call.

    Raises:
      ValueError: for settings out of range, or a network with an operation that has no bounds.

    Reference: Wang et al. 2021, arXiv:2103.06624, beta-CROWN; the trial of candidates is De Palma et al. 2021,
      arXiv:2104.06718, filtered smart branching. Hidden intervals stay those of the whole threat, by alpha-CROWN, but
      for what intervals gain from the cuts.
    """
    who = "branch_and_bound"
    checks.threat("bounds", threat)
    norm = checks.norm("bounds", threat.norm)
    for name, value in (("steps", steps), ("candidates", candidates), ("depth", depth), ("chunk", chunk)):
        checks.count(who, name, value)
    if batch_size < 2:
        raise ValueError(f"{who}: batch_size is {batch_size}, must be at least 2: the halves of a sub-domain")
    if isinstance(network, Network):
        apply, weights = _applied(network.model), (network.params, network.state)
    else:
        apply, weights = _called(network), ()

    @functools.cache
    def programs_for(shape: tuple[int, ...]) -> Programs:
        made = compiled(
            apply, norm, shape, inputs=inputs, candidates=candidates, chunk=chunk, outward=outward
        )
        return made(weights)

    def verify(
        x: Any, label: Any, going: Callable[[], bool] = always, memory: Memory | None = None
    ) -> Verdict:
        x = jnp.asarray(x, jnp.float32)
        checks.points("bounds", x[None], eps=threat.eps, lower=threat.lower, upper=threat.upper)
        run = programs_for(x.shape)
        checks.labels(who, np.asarray(label)[None], count=1, classes=run.classes)
        settings = Settings(
            run, threat, batch_size, steps, depth, tighten and not inputs, 0.0 if outward else ROUNDING, going
        )
        kept = memory.load() if memory else None
        now = restored(kept, run, threat, x, int(label), depth) if kept else begin(settings, x, int(label))
        while len(now.queue.bound) and now.upper > 0 and going():
            if memory:
                memory.keep(lambda now=now: packed(now))
            now = advance(settings, now)
        lower = min([now.lower, *now.queue.bound.tolist()])
        status: Status = (
            "attacked" if now.upper <= 0 else "certified" if lower > settings.above else "undecided"
        )
        return Verdict(status, lower, now.upper, now.point, now.bounded, tuple(now.roots.tolist()))

    return verify


@functools.lru_cache(maxsize=16)
def _applied(model: Model) -> Callable[[Any, jax.Array], jax.Array]:
    return lambda weights, x: frozen(model, *weights)(x)


def _called(logits_fn: LogitsFn) -> Callable[[Any, jax.Array], jax.Array]:
    return lambda weights, x: logits_fn(x).astype(jnp.float32)


def begin(settings: Settings, x: jax.Array, label: int) -> Search:
    """Bound the lead over each other class over the whole threat, and keep the slopes that were best for it."""
    run = settings.run
    whole = run.whole(settings.threat, x, jnp.int32(label))
    points, leads = run.lead(settings.threat, whole, x[None])
    others = np.delete(np.arange(run.classes, dtype=np.int32), label)
    turns, none = run.turns(whole, jnp.zeros(run.classes)), open_domains.nothing(settings.depth, run.places)
    now = Search(whole, turns, none, np.inf, np.inf, np.asarray(x), 0, np.zeros(0), np.asarray(leads))
    now = _met(now, points, leads)
    if now.upper <= 0:
        return now._replace(lower=-np.inf)
    now = _bounded(
        settings, now, open_domains.uncut(others, settings.depth), np.full(len(others), -np.inf), first=True
    )
    left = now.queue
    if not (settings.tighten and len(left.bound) and now.upper > 0 and settings.going()):
        return now
    now = now._replace(whole=run.tighter(now.whole), queue=none)
    return _bounded(
        settings,
        now,
        open_domains.uncut(np.asarray(left.domain.other), settings.depth),
        left.bound,
        first=True,
    )


def advance(settings: Settings, now: Search) -> Search:
    """Cut the sub-domains with the lowest bounds in two, and bound the halves."""
    count = min(settings.batch_size // 2, len(now.queue.bound))
    order = np.argsort(now.queue.bound, kind="stable")
    parents = open_domains.take(now.queue, order[:count])
    now = now._replace(queue=open_domains.take(now.queue, order[count:]))
    room = (parents.domain.place < 0).any(axis=1) & (parents.place[:, 0] >= 0)
    now = now._replace(lower=min([now.lower, *parents.bound[~room].tolist()]))  # given up
    parents = open_domains.take(parents, np.flatnonzero(room))
    if not len(parents.bound):
        return now
    halves = [open_domains.halves(parents, c) for c in range(parents.place.shape[1])]
    if len(halves) > 1:
        worst = np.stack([_tried(settings, now, parents, c, half) for c, half in enumerate(halves)])
        best = worst.argmax(axis=0)
    else:
        best = np.zeros(len(parents.bound), int)
    chosen = jax.tree.map(lambda *parts: np.stack(parts), *halves)  # (c, 2 n, ...)
    both = np.concatenate([best, best])
    domain = jax.tree.map(lambda v: v[both, np.arange(len(both))], chosen)
    return _bounded(settings, now, domain, np.concatenate([parents.bound] * 2))


def _tried(settings: Settings, now: Search, parents: Queue, number: int, halves: Domain) -> np.ndarray:
    """Rate a cut of each parent by the worse of its halves, bounded without a step, and a little by the better one."""
    found = []
    for domain, rows in open_domains.batches(halves, settings.batch_size):
        inside = settings.run.enter(now.whole, domain)
        bound = settings.run.start(now.whole, domain, now.turns, inside).bound
        found.append(np.where(inside.empty, np.inf, bound)[:rows])
    pair = np.concatenate(found).reshape(2, -1)
    pair = np.clip(np.nan_to_num(pair, nan=-np.inf), -1e30, 0.0)
    return np.where(parents.place[:, number] < 0, -np.inf, pair.min(axis=0) + 0.1 * pair.max(axis=0))


def _bounded(
    settings: Settings, now: Search, domain: Domain, floor: np.ndarray, *, first: bool = False
) -> Search:
    """Bound sub-domains, given bounds of what they are parts of, and queue those that stay open."""
    run, start, at_first = settings.run, 0, np.inf
    for part, rows in open_domains.batches(domain, settings.batch_size):
        if not settings.going():
            # What is not bounded yet keeps the bound of what it is a part of.
            return now._replace(lower=min([now.lower, *floor[start:].tolist()]))
        inside = run.enter(now.whole, part)
        state = run.start(now.whole, part, now.turns, inside)
        at_first = min([at_first, *np.asarray(state.bound)[:rows].tolist()])
        steps = FIRST_STEPS if first else settings.steps
        for number in range(steps):
            if number % _TOGETHER == 0 and (
                not settings.going() or (np.asarray(state.bound)[:rows] > settings.above).all()
            ):
                break
            state = run.step(now.whole, part, inside, state, jnp.float32(_FADING ** (number / steps)))
        seen = run.look(now.whole, part, inside, state.free)
        now = _met(now, *run.lead(settings.threat, now.whole, seen.point))
        if first:
            now = now._replace(turns=_kept(now.turns, np.asarray(part.other)[:rows], state.free.turns))
        bound = np.fmax(np.where(inside.empty, np.inf, state.bound)[:rows], floor[start : start + rows])
        multiplier = np.asarray(state.free.multiplier)
        places = (np.asarray(v) for v in (seen.place, seen.end, seen.scale))
        queued = Queue(part._replace(multiplier=multiplier), np.zeros(len(multiplier)), *places)
        queued = open_domains.take(queued, np.arange(rows))._replace(bound=bound)
        now = now._replace(
            queue=open_domains.joined(
                now.queue, open_domains.take(queued, np.flatnonzero(bound <= settings.above))
            ),
            lower=min([now.lower, *bound[bound > settings.above].tolist()]),
            bounded=now.bounded + rows,
        )
        start += rows
    if first:
        now = now._replace(
            roots=np.append(now.roots, [at_first, min([now.lower, *now.queue.bound.tolist()])])
        )
    return now


def _met(now: Search, points: jax.Array, leads: jax.Array) -> Search:
    """Keep the point where the label's class leads least; NaN logits are misclassified."""
    lead = np.nan_to_num(np.asarray(leads), nan=-np.inf)
    best = int(lead.argmin())
    if lead[best] >= now.upper:
        return now
    return now._replace(upper=float(lead[best]), point=np.asarray(points[best]))


def _kept(turns: Moved, others: np.ndarray, found: Moved) -> Moved:
    return jax.tree.map(lambda t, f: t.at[others].set(f[: len(others)]), turns, found)
