"""The front door: evaluate a network in one call, checked before any work and told honestly after it."""

import dataclasses
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from robustjax import checks
from robustjax.analysis.intervals import Estimate
from robustjax.attacks import autoattack, fast_suite, masking_checks, masking_measurements
from robustjax.attacks import suites as by_norm
from robustjax.evaluation import suite as suites
from robustjax.evaluation.ahead import compile_ahead, wait
from robustjax.evaluation.results import Results
from robustjax.evaluation.runner import Progress
from robustjax.evaluation.suite_state import fingerprint
from robustjax.models.cpu.rewritten import with_fast_convolutions
from robustjax.numerics import AnyNorm
from robustjax.runtime import result_files
from robustjax.runtime.attack_progress import attack_progress
from robustjax.runtime.compilation import compilations, duration, kept_programs
from robustjax.runtime.provenance import made_with, plain
from robustjax.runtime.snapshot import Snapshot
from robustjax.threats import Threat
from robustjax.traced import SMALL, default_platform
from robustjax.types import Flag, LogitsFn, Network

SUITES = {
    "standard": by_norm.standard,
    "plus": autoattack.plus,
    "rand": autoattack.rand,
    "fast": fast_suite.fast,
}


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What attacks did to a network; printed, a table.

    Attributes:
      title: norm, radius, suite and number of images.
      results: every image's outcome, margin and strongest point for every attack.
      flags: the checks of network and labels before the attacks and the gradient-masking checks after them; a raised
        one says why the number may be wrong, as a rule too high.
      seconds: of the whole call, compiling included.
      compiling: seconds of these that went into compiling programs; programs: how many.
      passes: forward and backward passes of the attacks, over all images.
      standard: of the fast suite, how many passes the standard suite makes of the robust images alone; else None.
    """

    title: str
    results: Results
    flags: tuple[Flag, ...]
    seconds: float
    compiling: float = 0.0
    programs: int = 0
    passes: int = 0
    standard: int | None = None

    @property
    def clean(self) -> Estimate:
        """Estimate the accuracy on the images themselves, with its 95 % interval."""
        return self.results.accuracy()[0][1]

    @property
    def robust(self) -> Estimate:
        """Estimate the accuracy under all attacks, worst case per image, with its 95 % interval."""
        return self.results.accuracy()[-1][1]

    def __repr__(self) -> str:
        spent = (0.0, *self.results.seconds)
        lines = [self.title]
        rows = self.results.accuracy()
        wide = max(10, *(len(name) for name, _ in rows))
        for (name, a), seconds in zip(rows, spent, strict=True):
            took = f"{seconds:8.1f} s" if seconds else ""
            lines.append(
                f"  {name:<{wide}}{100 * a.value:6.1f} %  ({100 * a.low:.1f} to {100 * a.high:.1f}){took}".rstrip()
            )
        a = self.robust
        lines.append(f"  {'robust':<{wide}}{100 * a.value:6.1f} %  ({100 * a.low:.1f} to {100 * a.high:.1f})")
        raised = [flag for flag in self.flags if flag.raised]
        lines += [f"  warning: {flag.name}: {flag.says}" for flag in raised]
        if self.flags and not raised:
            lines.append(f"  checks of network, labels and gradients: none of {len(self.flags)} raised")
        if self.standard is not None:
            lines.append(
                f"  {self.passes:,} forward and backward passes; standard makes {self.standard:,} of the robust images "
                "alone"
            )
        return "\n".join([*lines, f"  {duration(self.seconds, self.compiling, self.programs)}"])


def evaluate(
    network: LogitsFn | Network,
    x: Any,
    y: Any,
    *,
    norm: AnyNorm = "linf",
    eps: float = 8 / 255,
    suite: Literal["standard", "plus", "rand", "fast"] = "standard",
    lower: float = 0.0,
    upper: float = 1.0,
    batch_size: int = 512,
    masking: bool = True,
    seed: int = 0,
    out: str | Path | None = None,
) -> Evaluation:
    """Attack a classifier with AutoAttack on every image, and look for signs of masked gradients.

    In l0, where AutoAttack has no attacks, the suite is that of `attacks.l0_suite`.

    Args:
      network: from images (b, h, w, c) to logits (b, k), in evaluation mode; or a `Network` with its weights.
      x: (n, h, w, c) bytes, or floats in the box.
      y: (n,) labels, whole numbers from 0.
      norm, eps: of the threat; eps in the units of x, after bytes are divided by 255; in l0 a number of pixels.
      suite: AutoAttack's version; or "fast", for a quick answer on networks whose gradients are sound: see
        `attacks.fast_suite`. Where a check raises a flag it is not enough, and the flags say so.
      lower, upper: the box that pixels must stay in.
      batch_size: images on the devices at a time.
      masking: run the gradient-masking checks, on 64 images.
      seed: of all random numbers; the outcome for an image depends on it and on the image's place in x alone.
      out: a folder for results.npz and results.json; a call that was killed goes on from there.

    Returns:
      An `Evaluation`; its repr is a table of accuracies with 95 % intervals after each attack.

    Raises:
      ValueError: in one line, for images outside the box or channels first, labels that are not 0..k-1, an impossible
        radius, another suite than standard in l0, fast in l1, or a network that JAX cannot trace, that gives no logits,
        gives NaN for every image, or gives an image other logits in another batch.

    Reference: Croce and Hein 2020, arXiv:2003.01690; l1: 2021, arXiv:2103.01208.
    """
    began = time.perf_counter()
    if not isinstance(suite, str) or suite not in SUITES:
        raise ValueError(f"evaluate: suite is {suite!r}, must be one of {', '.join(SUITES)}")
    if norm == "l1" and suite == "fast":
        raise ValueError("evaluate: suite is 'fast' in l1, must be standard: it is made for linf and l2")
    if norm == "l0" and suite != "standard":
        raise ValueError(
            f"evaluate: suite is {suite!r} in l0, must be standard: AutoAttack has no attacks there"
        )
    logits_fn: Any = network.logits_fn if isinstance(network, Network) else network
    checks.seed("evaluate", seed)
    checks.count("evaluate", "batch_size", batch_size)
    images = checks.images("evaluate", x, lower=lower, upper=upper)
    classes = checks.logits("evaluate", logits_fn, images)
    checks.folder("evaluate", out)
    labels = checks.labels("evaluate", y, count=len(images), classes=classes)
    eps = checks.radius("evaluate", eps, norm=norm, shape=images.shape[1:], lower=lower, upper=upper, l0=True)
    flags = (
        *checks.network("evaluate", logits_fn, images, lower=lower, upper=upper),
        checks.class_counts(labels, classes),
    )
    if default_platform() == "cpu":
        logits_fn = with_fast_convolutions(logits_fn)
    threat, key = Threat(norm, eps, lower, upper), jax.random.key(seed)
    cases = _Suite(SUITES[suite], classes)
    few = checks.evenly(len(images))

    folder, memory = None if out is None else Path(out), None
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        # Progress of another network on the same images must not be taken up: its answers are part of the name.
        answers = np.asarray(jax.jit(logits_fn)(images[few]))
        memory = Snapshot(folder / f"progress_{fingerprint(answers)}.npz")
    attack = suites.over(lambda: logits_fn, cases, batch_size=batch_size)
    with kept_programs(), compilations() as compiled:
        show = attack_progress()
        some_x, some_y = jax.device_put((images[few], labels[few]))
        black_box = [case.name for case in cases(threat) if case.black_box]
        search = not black_box
        traced = masking_measurements.hoisted(logits_fn, some_x)
        rehearsal = partial(masking_checks.rehearse, traced, some_x, some_y, threat, search=search)

        def progress(now: Progress) -> None:
            if (
                masking and traced.steps.per_example < SMALL
            ):  # compiled after the attacks, which are needed first
                compile_ahead(traced.steps, (norm, search), rehearsal)
            show(now)

        results = attack(key, images, labels, threat, memory=memory, progress=progress)
        flags = checks.joined(flags, (checks.answered(results.clean),))
        if masking:
            wait(traced.steps, (norm, search))
            found = masking_checks.from_outcomes(
                results.attacks, results.outcome, results.margin, black_box=black_box
            )
            seen = masking_checks.checks(key, logits_fn, some_x, some_y, threat, search=search)
            flags = checks.joined(flags, (*seen, *found))
    passes = sum(int(steps) * case.passes for steps, case in zip(results.steps, cases(threat), strict=True))
    standard = None
    if suite == "fast":
        flags = checks.joined(flags, (fast_suite.searched(results.outcome),))
        flags = (*flags, *fast_suite.not_enough(flags))
        standard = int(results.robust.sum()) * fast_suite.standard_passes(threat, classes=classes)
    ball = f"l0 of {eps:g} pixels" if norm == "l0" else f"{norm} {eps:.4g}"
    version = f"AutoAttack {suite}" if norm != "l0" and suite != "fast" else f"{suite} suite"
    what = f"{ball}, {version}"
    title = f"{what}, {len(images)} images"
    evaluation = Evaluation(
        title,
        results,
        flags,
        time.perf_counter() - began,
        compiled.seconds,
        compiled.programs,
        passes,
        standard,
    )
    if folder is not None:
        about = {"norm": norm, "eps": eps, "suite": suite, "seed": seed}
        told = {"flags": [plain(flag) for flag in flags], "passes": passes, "made_with": made_with()}
        if standard is not None:
            told["passes of standard for the robust images"] = standard
        result_files.write(folder, results, {"network": about, **told})
        if memory is not None:
            memory.remove()
    return evaluation


class _Suite(NamedTuple):
    """The cases of a suite from the threat: equal for equal settings, so that compiled programs are found again."""

    factory: Callable[..., tuple[autoattack.Case, ...]]
    classes: int

    def __call__(self, threat: Threat) -> tuple[autoattack.Case, ...]:
        """List the cases."""
        return self.factory(threat, classes=self.classes)
