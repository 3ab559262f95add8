"""The front door for detectors: evaluate an OOD score in one call, attacked on both sides, and told honestly."""

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from robustjax import checks
from robustjax.analysis import detection
from robustjax.analysis.intervals import Estimate
from robustjax.attacks.flags import Flag
from robustjax.evaluation import score_cases, score_checks, score_suite
from robustjax.evaluation.score_suite import ScoreResults
from robustjax.evaluation.suite_state import fingerprint
from robustjax.numerics import Norm
from robustjax.ood import metrics
from robustjax.ood.detectors import ScoredNetwork
from robustjax.ood.logit_scores import msp_margin
from robustjax.ood.scores import Score, scored
from robustjax.runtime import result_files
from robustjax.runtime.attack_progress import attack_progress
from robustjax.runtime.compilation import compilations, duration, kept_programs
from robustjax.runtime.provenance import made_with, plain
from robustjax.runtime.snapshot import Snapshot
from robustjax.threats import Threat
from robustjax.types import Model, Network, Params, State, frozen

LOOKED_AT = 32  # images of each side that the gradient-masking checks see
ATTACKED = {
    "clean": (False, False),
    "OOD attacked": (False, True),
    "ID attacked": (True, False),
    "both attacked": (True, True),
}  # whether the ID images are attacked, and the OOD images
METRICS = {"AUROC": metrics.auroc, "FPR95": metrics.fpr_id95, "AUPR": metrics.aupr_in}


@dataclasses.dataclass(frozen=True)
class OodEvaluation:
    """What attacks did to the score of a detector; printed, a table.

    Scores of ID images are lowered and those of OOD images raised. "OOD attacked" leaves ID images as they are, "ID
    attacked" the OOD images, "both attacked" none. All are worst cases over the attacks, per image.

    Attributes:
      title: norm, radius and numbers of images.
      results: every image's scores: clean, after each attack, and at the worst point.
      sets: by name of the OOD set, the numbers of its images in `results.index`.
      flags: the gradient-masking checks; a raised one says why the numbers may be too high.
      seconds: of the whole call, compiling included.
      compiling: seconds of these that went into compiling programs; programs: how many.
    """

    title: str
    results: ScoreResults
    sets: dict[str, np.ndarray]
    flags: tuple[Flag, ...]
    seconds: float
    compiling: float = 0.0
    programs: int = 0

    @property
    def clean(self) -> Estimate:
        """Estimate the AUROC on the images themselves, the mean over the OOD sets, with its 95 % interval."""
        return self.estimate("AUROC", "clean")

    @property
    def ood_attacked(self) -> Estimate:
        """Estimate the AUROC with OOD images attacked."""
        return self.estimate("AUROC", "OOD attacked")

    @property
    def id_attacked(self) -> Estimate:
        """Estimate the AUROC with ID images attacked."""
        return self.estimate("AUROC", "ID attacked")

    @property
    def both_attacked(self) -> Estimate:
        """Estimate the AUROC with ID and OOD images attacked."""
        return self.estimate("AUROC", "both attacked")

    def estimate(self, metric: str, attacked: str, *, of: str | None = None) -> Estimate:
        """Estimate a metric with the 95 % interval of a bootstrap over images, ID and OOD images drawn apart.

        Args:
          metric: AUROC; FPR95, the share of OOD images accepted where 95 % of ID images are; or AUPR, with ID images
            as positives.
          attacked: clean, OOD attacked, ID attacked or both attacked.
          of: an OOD set; None for the mean over all.
        Raises:
          ValueError: if there is no such metric, case or set.
        """
        chosen = self.sets if of is None else {name: self.sets[name] for name in (of,) if name in self.sets}
        if metric not in METRICS or attacked not in ATTACKED or not chosen:
            raise ValueError(
                f"estimate: metric is {metric!r}, attacked {attacked!r} and of {of!r}, must be of "
                f"{', '.join(METRICS)}; {', '.join(ATTACKED)}; {', '.join(self.sets)}"
            )
        on_id, on_ood = ATTACKED[attacked]
        return self._estimate(metric, self._side(None, on_id), {n: self._side(n, on_ood) for n in chosen})

    def __repr__(self) -> str:
        lines = [
            self.title,
            "  " + "".join(["AUROC".ljust(18), *(case.ljust(25) for case in ATTACKED)]).rstrip(),
        ]
        names: list[str | None] = [*self.sets, None] if len(self.sets) > 1 else list(self.sets)
        lines += [self._row(name or "mean", "AUROC", name) for name in names]
        lines += [
            self._row(metric + (", mean" if len(self.sets) > 1 else ""), metric, None)
            for metric in ("FPR95", "AUPR")
        ]
        after = ", ".join(f"{name} {value:.3f}" for name, value in self.after_each_attack())
        lines.append(f"  AUROC, both attacked, after each attack: {after}")
        raised = [flag for flag in self.flags if flag.raised]
        lines += [f"  warning: {flag.name}: {flag.says}" for flag in raised]
        if self.flags and not raised:
            lines.append(f"  gradient-masking checks: none of {len(self.flags)} raised")
        return "\n".join([*lines, f"  {duration(self.seconds, self.compiling, self.programs)}"])

    def after_each_attack(self) -> list[tuple[str, float]]:
        """List the AUROC with both sides attacked, clean and after each attack: of the worst so far, mean over sets."""
        found = []
        for name, scores in self.results.by_attack():
            ours = scores[self.results.is_id]
            apart = [metrics.auroc(ours, scores[np.isin(self.results.index, i)]) for i in self.sets.values()]
            found.append((name, float(np.mean(apart))))
        return found

    def _row(self, title: str, metric: str, of: str | None) -> str:
        cells = []
        for case in ATTACKED:
            value = self.estimate(metric, case, of=of)
            cells.append(f"{value.value:.3f} ({value.low:.3f} to {value.high:.3f})".ljust(25))
        return f"  {title[:17]:<18}{''.join(cells)}".rstrip()

    def _side(self, name: str | None, attacked: bool) -> np.ndarray:
        scores = self.results.worst if attacked else self.results.clean
        return scores[self.results.is_id if name is None else np.isin(self.results.index, self.sets[name])]

    def _estimate(self, metric: str, ours: np.ndarray, theirs: Mapping[str, np.ndarray]) -> Estimate:
        return detection.of_one_network(METRICS[metric], ours, theirs)


@kept_programs()
def evaluate_ood(
    score: Score | Network | ScoredNetwork,
    id_images: Any,
    ood_images: Any,
    *,
    norm: Norm = "linf",
    eps: float = 8 / 255,
    lower: float = 0.0,
    upper: float = 1.0,
    steps: int = 100,
    queries: int = 1000,
    batch_size: int = 512,
    masking: bool = True,
    seed: int = 0,
    out: str | Path | None = None,
) -> OodEvaluation:
    """Attack the score of an OOD detector on ID and OOD images, and look for signs of masked gradients.

    APGD and Square on the score; where there are logits also APGD on cross-entropy to uniform, on entropy and at every
    class. The worst score counts for each image.

    Args:
      score: from images (b, h, w, c) to (b,), larger on in-distribution images, best in a form that does not saturate.
        A `Network` is scored by its largest softmax probability; a `ScoredNetwork` names a score and its logits.
      id_images: (n, h, w, c) bytes, or floats in the box: in-distribution.
      ood_images: (m, h, w, c) out-of-distribution images, or several sets by name.
      norm, eps: of the threat around every image; eps in the units of the images, after bytes are divided by 255.
      lower, upper: the box that pixels must stay in.
      steps: of each run of APGD.
      queries: of Square, at least 200: some scores have gradients that say nothing.
      batch_size: images on the devices at a time.
      masking: run the gradient-masking checks, on 32 images of each side.
      seed: of all random numbers; the outcome for an image depends on it, its set's name and its place there alone.
      out: a folder for results.npz and results.json; a call that was killed goes on from there.

    Returns:
      An `OodEvaluation`; its repr is a table of AUROC, FPR95 and AUPR with 95 % intervals: clean, with OOD images, ID
      images and both attacked.

    Raises:
      ValueError: in one line, for images outside the box, channels first or of several shapes, an impossible radius,
        or a score that JAX cannot trace, that gives anything but one number an image, gives NaN for every image, or
        gives an image another number in another batch.
    """
    began = time.perf_counter()
    who = "evaluate_ood"
    checks.seed(who, seed)
    checks.count(who, "batch_size", batch_size)
    checks.folder(who, out)
    ours = checks.images(who, id_images, lower=lower, upper=upper)
    theirs = {
        str(name): checks.images(f"{who}: {name}", images, lower=lower, upper=upper)
        for name, images in _named(ood_images).items()
    }
    for name, images in theirs.items():
        if images.shape[1:] != ours.shape[1:]:
            raise ValueError(
                f"{who}: {name} images have shape {images.shape}, must be (n, {', '.join(map(str, ours.shape[1:]))}) "
                "as the ID images"
            )
    eps = checks.radius(who, eps, norm=norm, shape=ours.shape[1:], lower=lower, upper=upper)
    checks.count(who, "steps", steps)
    system, arguments = _system(score)
    detector = system(*arguments)
    classes = None if detector.logits_fn is None else checks.logits(who, detector.logits_fn, ours)
    checks.score(who, detector.score, ours)
    for images in (ours, *theirs.values()):
        checks.scores(who, detector.score, images, lower=lower, upper=upper)
    cases = score_cases.Chosen(
        score_cases.standard,
        classes,
        detector.surrogate is not None,
        steps,
        more=(("queries", queries),),
    )
    threat, key = Threat(norm, eps, lower, upper), jax.random.key(seed)
    cases(threat)  # refuses its settings before any work

    numbers = score_suite.numbered({"ID": len(ours)} | {n: len(images) for n, images in theirs.items()})
    images = np.concatenate([ours, *theirs.values()])
    is_id = np.arange(len(images)) < len(ours)
    folder, memory = None if out is None else Path(out), None
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        # Progress of another score on the same images must not be taken up: its answers are part of the name.
        answers = np.asarray(jax.jit(detector.score)(images[:LOOKED_AT]))
        memory = Snapshot(folder / f"progress_{fingerprint(answers)}.npz")
    flags: tuple[Flag, ...] = ()
    with compilations() as compiled:
        results = score_suite.score_suite(system, cases, batch_size=batch_size)(
            key,
            images,
            is_id,
            threat,
            *arguments,
            index=np.concatenate(list(numbers.values())),
            memory=memory,
            progress=attack_progress(counts="under attack"),
        )
        if masking:
            few = np.concatenate([np.flatnonzero(is_id)[:LOOKED_AT], _spread(len(ours), theirs, LOOKED_AT)])
            seen = score_checks.checks(key, detector.score, images[few], is_id[few], threat)
            flags = (*score_checks.from_results(results), *seen)
    sets = {name: numbers[name] for name in theirs}
    title = f"{norm} {eps:.4g}, attacks on the score, {len(ours)} ID images, OOD: " + ", ".join(
        f"{len(part)} of {name}" for name, part in theirs.items()
    )
    evaluation = OodEvaluation(
        title, results, sets, flags, time.perf_counter() - began, compiled.seconds, compiled.programs
    )
    if folder is not None:
        about = {"norm": norm, "eps": eps, "steps": steps, "queries": queries, "seed": seed}
        told = {"flags": [plain(flag) for flag in flags], "made_with": made_with()}
        rows = {name: {"first index": int(part[0]), "images": len(part)} for name, part in sets.items()}
        result_files.write_scores(folder, results, {"network": about, "sets": rows, **told})
        if memory is not None:
            memory.remove()
    return evaluation


def _named(images: Any) -> Mapping[Any, Any]:
    if not isinstance(images, Mapping):
        return {"OOD": images}
    if not images:
        raise ValueError("evaluate_ood: ood_images is empty, must hold at least one set")
    if "ID" in images:
        raise ValueError("evaluate_ood: an OOD set is named 'ID', must have another name")
    return images


def _spread(first: int, theirs: Mapping[str, np.ndarray], count: int) -> np.ndarray:
    """Choose OOD images of all sets alike."""
    total = sum(map(len, theirs.values()))
    return first + np.unique(np.linspace(0, total - 1, min(count, total)).astype(int))


def _system(score: Any) -> tuple[Any, tuple[Any, ...]]:
    """Give what builds the detector, and its arguments."""
    if isinstance(score, Network):
        return _Msp(score.model), (score.params, score.state)
    detector = score if isinstance(score, ScoredNetwork) else ScoredNetwork(score)
    return (lambda: detector), ()


class _Msp(NamedTuple):
    """The largest softmax probability of a model: equal for equal models, so that compiled programs are found again."""

    model: Model

    def __call__(self, params: Params, state: State) -> ScoredNetwork:
        """Close the model over its parameters."""
        logits_fn = frozen(self.model, params, state)
        return ScoredNetwork(scored(logits_fn, msp_margin), logits_fn)
