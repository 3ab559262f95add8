"""Run a suite of attacks on a classifier over a data set: each attack on the images that are still robust."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Array, PRNGKeyArray

from robustjax import checks, logit
from robustjax.attacks.autoattack import ranked_classes
from robustjax.attacks.case import check_cases
from robustjax.attacks.compose import wrong_classes
from robustjax.evaluation import pool
from robustjax.evaluation.pool import Cases
from robustjax.evaluation.results import Results
from robustjax.evaluation.runner import Examples, Memory, Progress, ask, require_feasible, runner
from robustjax.threats import Threat
from robustjax.traced import ByBatch, closes_over_mesh
from robustjax.types import Keys, Labels, LogitsFn

Network = Callable[..., LogitsFn]  # (*arguments) -> LogitsFn, such as functools.partial(frozen, model)


def over(
    network: Network,
    cases: Cases,
    *,
    batch_size: int = 512,
    smallest: int = 32,
    segment: int | None = None,
    sharding: NamedSharding | None = None,
    reference: Network | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Callable[..., Results]:
    """Build an evaluation that runs a suite of attacks on a data set.

    See `runner.runner` for how: full batches, random numbers per image, resumption.

    Args:
      network: (*arguments) -> logits function, such as `functools.partial(types.frozen, model)`: what is attacked. For
        a plain function f it is `lambda: f`. It is traced in every call; networks that do the same with other arrays,
        given as arguments or closed over, share programs.
      cases: the suite, from the threat, such as `functools.partial(autoattack.standard, classes=10)`; the radius
        is traced, so a sweep compiles once.
      batch_size, smallest, segment, sharding, clock: as for `runner.runner`.
      reference: like `network`; decides what counts as misclassified where another function should: in float32 for
        a network attacked in bfloat16, over more passes for a randomised one.

    Returns:
      evaluate(key, images, labels, threat, *arguments, index=None, given=None, every=False, memory=None,
      progress=None) -> Results.
      images: (n, ...) numpy, uint8 or floats in the box; labels: (n,); index: (n,) the numbers of the images in
      their data set, 0, 1, ... by default.
      given: a report on the same images at this radius or a smaller one; what was misclassified there stays so.
      every: run every attack on all images classified correctly, also on those misclassified before.
      memory: keeps progress and takes it up again; progress: called with `Progress` after every segment.
      Before any work it raises ValueError for images outside the box, labels that are not 0..k-1, arrays that do not
      fit, a network that gives no logits, and for progress kept by another evaluation; RuntimeError if a point that was
      found lies outside the threat, which would be a bug.
    Raises:
      ValueError: if network or cases is no function, or for sizes out of range.
    """
    for name, given_, example in (
        ("network", network, "lambda: f"),
        ("cases", cases, "lambda threat: (...)"),
    ):
        if not callable(given_):
            raise ValueError(f"suite: {name} is a {type(given_).__name__}, must be a function: {example}")
    if segment is not None and segment < 1:
        raise ValueError(f"suite: segment is {segment}, must be at least 1")
    devices = sharding.num_devices if sharding else 1
    sizes = pool.buckets(batch_size, min(smallest, batch_size), devices)

    def evaluate(
        key: PRNGKeyArray,
        images: np.ndarray,
        labels: np.ndarray,
        threat: Threat,
        *arguments: Any,
        index: np.ndarray | None = None,
        given: Results | None = None,
        every: bool = False,
        memory: Memory | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> Results:
        x = as_floats(images)
        index = np.arange(len(x)) if index is None else np.asarray(index)
        _check(x, index, given)
        checks.points("suite", x, eps=threat.eps, lower=threat.lower, upper=threat.upper)
        classes = checks.logits("suite", _called(network, arguments), x)
        system = _by_batch(network, x, arguments)
        if devices > 1 and closes_over_mesh(_applied(network), (1, *x.shape[1:]), arguments):
            raise ValueError(
                f"suite: network closes over arrays that lie on several devices, which batches over {devices} devices "
                "do not allow; give them as arguments, as in over(partial(frozen, model)), or put them on one device"
            )
        if reference is not None:
            checks.logits("suite: reference", _called(reference, arguments), x, classes=classes)
        deciding = None if reference is None else _by_batch(reference, x, arguments)
        labels = checks.labels("suite", labels, count=len(x), classes=classes)
        listed = cases(threat)
        check_cases(listed)
        answer, examples, clean = Answers(ranked_classes(listed)), Examples(x, labels, index), None
        if given is not None:
            rows = np.arange(len(labels))
            size = pool.largest(sizes, len(x), devices)
            clean = ask(answer, deciding or system, size, sharding, key, examples, rows, x, ())
            if off := int((clean["prediction"] != given.clean).sum()):
                raise ValueError(
                    f"suite: given is a report about another network, which predicts otherwise for {off} of "
                    f"{len(labels)} images; must be about this one"
                )
        run = runner(
            system,
            cases,
            answer,
            _misclassified,
            reference=deciding,
            batch_size=batch_size,
            smallest=smallest,
            segment=segment,
            sharding=sharding,
            clock=clock,
        )
        found = run(
            key,
            examples,
            threat,
            clean=clean,
            already=None if given is None else given.broken,
            begin=None if given is None else (given.x, given.value),
            every=every,
            memory=memory,
            progress=progress,
        )
        require_feasible(found, threat)
        return Results(
            attacks=found.attacks,
            index=index,
            label=labels,
            clean=found.clean["prediction"],
            already=np.zeros(len(labels), bool) if given is None else given.broken,
            outcome=found.outcome,
            margin=found.merit,
            x=found.x,
            prediction=found.final["prediction"],
            value=found.final["merit"],
            distance=found.distance,
            steps=found.steps,
            seconds=found.seconds,
        )

    return evaluate


def _by_batch(network: Network, x: np.ndarray, arguments: tuple[Any, ...]) -> ByBatch:
    _called(network, arguments)
    return ByBatch(_applied(network), x.shape[1:], arguments)


def _applied(network: Network) -> Callable[..., Array]:
    return lambda *inputs: network(*inputs[:-1])(inputs[-1])


def _called(network: Network, arguments: tuple[Any, ...]) -> LogitsFn:
    try:
        logits_fn = network(*arguments)
    except TypeError as error:
        raise ValueError(
            f"suite: network cannot be called with the {len(arguments)} arguments given ({error}); it must take these "
            "and return a function from images to logits: of a function f of images make lambda: f"
        ) from error
    if not callable(logits_fn):
        raise ValueError(
            f"suite: network gives a {type(logits_fn).__name__} for the arguments, must give a function from images to "
            "logits: of a function f of images make lambda: f"
        )
    return logits_fn


class Answers(NamedTuple):
    """What a classifier answers: the prediction, the margin, wrong classes by falling logit.

    The prediction is -1 where a logit is NaN or plus infinity, or all are minus infinity: no label, so misclassified.
    """

    width: int  # wrong classes to rank

    def __call__(self, logits_fn: LogitsFn, keys: Keys, y: Labels, x: Array) -> dict[str, Array]:
        """Run the classifier on a batch."""
        del keys
        logits = logits_fn(x).astype(jnp.float32)
        return {
            "prediction": logit.prediction(logits),
            "merit": logit.margin(logits, y),
            "ranked": wrong_classes(logits, y, self.width),
        }


def _misclassified(answers: dict[str, np.ndarray], labels: np.ndarray) -> np.ndarray:
    return answers["prediction"] != labels


def as_floats(images: np.ndarray) -> np.ndarray:
    """Turn bytes into floats in [0, 1], correctly rounded, which a compiled division is not.

    Raises:
      ValueError: for anything but bytes and floats.
    """
    images = np.asarray(images)
    if images.dtype == np.uint8:
        return images.astype(np.float32) / np.float32(255)
    if not jax.dtypes.issubdtype(images.dtype, np.floating):
        raise ValueError(f"suite: images are {images.dtype}, must be floats in the box, or bytes (uint8)")
    return images.astype(np.float32)


def _check(images: np.ndarray, index: np.ndarray, given: Results | None) -> None:
    if images.ndim < 2 or len(images) == 0 or index.shape != (len(images),):
        raise ValueError(
            f"suite: images have shape {images.shape} and index {index.shape}, must be (n, ...) and (n,) with n at "
            "least 1"
        )
    if len(np.unique(index)) < len(index):
        raise ValueError("suite: index has the same number twice, must be different for every image")
    if given is not None and not np.array_equal(given.index, index):
        raise ValueError(
            "suite: given is a report on other images, must be on the same ones in the same order"
        )
