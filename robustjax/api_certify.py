"""The front door for certificates: radii that no attack can break, image by image, with a table."""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from robustjax import binomial, checks
from robustjax.analysis.intervals import Estimate, proportion
from robustjax.attacks.flags import Flag
from robustjax.bounds.enclosure import METHODS, Method, margins
from robustjax.evaluation.suite_state import fingerprint
from robustjax.numerics import Norm, in_float32
from robustjax.runtime import strict_json
from robustjax.runtime.compilation import kept_programs
from robustjax.runtime.files import write_whole
from robustjax.runtime.progress import progress
from robustjax.runtime.provenance import digest, made_with, plain
from robustjax.runtime.snapshot import Snapshot, in_bytes
from robustjax.smoothing import curves
from robustjax.smoothing.certify import ABSTAIN, MOST, Certificate, certificate
from robustjax.smoothing.noise import in_pixels
from robustjax.smoothing.votes import votes
from robustjax.threats import Threat
from robustjax.types import LogitsFn, Model, Network, frozen

Arrays = dict[str, np.ndarray]
FRACTIONS = (0.5, 1.0, 2.0, 3.0)  # of sigma: the radii of the table
ROUNDING = 1e-4  # of the logits, by which a margin must be exceeded that holds up to rounding
WIDEST = 10.0  # sigma, in widths of the box: more is a mistake of units


@dataclasses.dataclass(frozen=True)
class Certification:
    """What is proved about a network on images; printed, a table.

    Attributes:
      title: the method, its settings and the number of images.
      label: (n,) what the images show.
      prediction: (n,) of the network itself, without noise; -1 where its logits are NaN.
      certificate: of every image: the class that cannot change within the radius, -1 where nothing is certified.
      radii: that the table shows.
      says: what the certificates hold by, and how often they may be wrong.
      flags: the checks of network and labels, and reasons to doubt the certificates; raised or not.
      seconds: of the whole call, compiling included.
    """

    title: str
    label: np.ndarray
    prediction: np.ndarray
    certificate: Certificate
    radii: tuple[float, ...]
    says: str
    flags: tuple[Flag, ...]
    seconds: float

    @property
    def clean(self) -> Estimate:
        """Estimate the accuracy of the network itself, with its 95 % interval."""
        return proportion(self.prediction == self.label)

    @property
    def abstained(self) -> Estimate:
        """Estimate the share of images without a certificate, with its 95 % interval."""
        return proportion(self.certificate.label == ABSTAIN)

    @property
    def average_radius(self) -> float:
        """Average the certified radius, 0 where the certified class is wrong or withheld."""
        return curves.average_radius(self.certificate, self.label)

    def accuracy(self, radius: float = 0.0) -> Estimate:
        """Estimate the share of images certified to be classified correctly within an l2 or linf radius.

        At radius 0 it is the accuracy of the smoothed network, abstentions counted as wrong.

        Raises:
          ValueError: if the radius is negative or not finite.
        """
        checks.not_negative("accuracy", "radius", radius)
        right = self.certificate.label == self.label
        return proportion(right & (self.certificate.radius >= radius))

    def rows(self) -> list[tuple[str, Estimate]]:
        """Tabulate accuracies with their 95 % intervals over images."""
        smoothed = [("smoothed", self.accuracy())] if np.isfinite(self.certificate.lower_bound).any() else []
        certified = [(f"certified at {r:.4g}", self.accuracy(r)) for r in self.radii]
        return [("clean", self.clean), *smoothed, *certified, ("abstained", self.abstained)]

    def __repr__(self) -> str:
        rows = self.rows()
        width = max(len(name) for name, _ in rows) + 1
        lines = [self.title]
        lines += [
            f"  {name:<{width}}{100 * a.value:6.1f} %  ({100 * a.low:.1f} to {100 * a.high:.1f})"
            for name, a in rows
        ]
        raised = [flag for flag in self.flags if flag.raised]
        lines += [f"  warning: {flag.name}: {flag.says}" for flag in raised]
        if self.flags and not raised:
            lines.append(f"  checks of network, labels and certificates: none of {len(self.flags)} raised")
        return "\n".join([*lines, f"  {self.says}", f"  {self.seconds:.0f} s in all"])


@kept_programs()
def certify(
    network: LogitsFn | Network,
    x: Any,
    y: Any,
    *,
    sigma: float,
    n0: int = 100,
    n: int = 10_000,
    alpha: float = 0.001,
    radii: Sequence[float] | None = None,
    lower: float = 0.0,
    upper: float = 1.0,
    batch_size: int = 500,
    seed: int = 0,
    out: str | Path | None = None,
) -> Certification:
    """Certify the classifier that answers by majority under Gaussian noise, in l2 balls, image by image.

    The certificates are those of the smoothed network, not of the network itself; a network that was not trained with
    noise has small ones.

    Args:
      network: from images (b, h, w, c) to logits (b, k), in evaluation mode; or a `Network` with its weights.
      x: (n, h, w, c) bytes, or floats in the box.
      y: (n,) labels, whole numbers from 0.
      sigma: standard deviation of the noise, in the units of x, after bytes are divided by 255.
      n0: samples of noise that choose the class.
      n: samples of noise that bound its probability; the papers take 100,000. More reach larger radii.
      alpha: probability with which the certificate of an image may be wrong.
      radii: l2 radii for the table; by default multiples of sigma.
      lower, upper: the box that images without noise lie in.
      batch_size: noisy images on the device at a time. It changes which noise is drawn, not its distribution.
      seed: of the noise; the samples for an image depend on it and on the image's place in x alone.
      out: a folder for certificates.npz and certificates.json; a call that was killed goes on from there.

    Returns:
      A `Certification`; its repr is a table of accuracies with 95 % Clopper-Pearson intervals over images.

    Raises:
      ValueError: in one line, for images outside the box or channels first, labels that are not 0..k-1, a network that
        JAX cannot trace or that gives no logits, or settings out of range.

    Reference: Cohen, Rosenfeld and Kolter 2019, arXiv:1902.02918, CERTIFY.
    """
    began, who = time.perf_counter(), "certify"
    checks.box(who, lower, upper)
    checks.folder(who, out)
    _settings(who, sigma, n0, n, alpha, upper - lower)
    images, labels, classes, seen, run = _entered(who, network, x, y, lower, upper, batch_size, seed)
    sigma, alpha, n0, n, seed = float(sigma), float(alpha), int(n0), int(n), int(seed)
    chunk_size = min(batch_size, max(n0, n))
    largest = float(binomial.radius(np.asarray(alpha ** (1 / n)), sigma))
    shown = _radii(who, radii, sigma)
    programs = run(_counter, classes, chunk_size)
    logits = _batched(run(_answers), images, batch_size)

    # Progress of another network or of other settings must not be taken up: both are part of the name.
    made_by = {"sigma": sigma, "n0": n0, "n": n, "alpha": alpha, "batch_size": chunk_size, "seed": seed}
    found: Arrays = {name: np.zeros(0) for name in ("label", "radius", "lower_bound", "lost")}
    memory = None
    if out is not None:
        Path(out).mkdir(parents=True, exist_ok=True)
        answers = fingerprint(images, logits)
        memory = Snapshot(Path(out) / f"progress_{digest({**made_by, 'answers': answers})}.npz")
        found = memory.load() or found
    key, start = jax.random.key(seed), len(found["label"])
    steps = progress(images[start:], total=len(images), start=start, label="certify", batch_size=1)
    for i, image in steps:
        one = _one(programs, jax.random.fold_in(key, i), image, sigma=sigma, n0=n0, n=n, alpha=alpha)
        found = {name: np.append(values, one[name]) for name, values in found.items()}
        steps.show({"certified": float((found["label"] != ABSTAIN).mean())})
        if memory is not None:
            memory.keep(lambda found=found: found)

    certified = Certificate(found["label"].astype(np.int32), found["radius"], found["lower_bound"])
    prediction = _predicted(logits)
    flags = (
        *checks.joined(seen, (checks.answered(prediction),)),
        _lost_votes(found["lost"], n),
        _out_of_reach(shown, largest, n, alpha),
    )
    done = Certification(
        f"l2 certificates by randomised smoothing, sigma {sigma:.4g}, {len(images)} images",
        labels,
        prediction,
        certified,
        shown,
        f"{n0} + {n} samples of noise per image; a certificate is wrong with probability at most {alpha:g}",
        flags,
        time.perf_counter() - began,
    )
    if out is not None:
        _write(Path(out), done, {"method": "smoothing", **made_by, "largest radius": largest})
        if memory is not None:
            memory.remove()
    return done


@kept_programs()
def certify_bounds(
    network: LogitsFn | Network,
    x: Any,
    y: Any,
    *,
    norm: Norm = "linf",
    eps: float = 8 / 255,
    method: Method = "crown-ibp",
    outward: bool = True,
    lower: float = 0.0,
    upper: float = 1.0,
    batch_size: int = 64,
    out: str | Path | None = None,
) -> Certification:
    """Certify the network itself by bounds on its logits: no point of the threat changes the class. It uses no samples.

    The bounds are loose for deep networks that were not trained with them: there nearly every image abstains.

    Args:
      network, x, y, lower, upper: as in `certify`; of networks, see `bounds` for the operations allowed.
      norm, eps: of the threat; eps in the units of x, after bytes are divided by 255.
      method: "ibp", "crown-ibp", "crown" or "alpha-crown", from the cheapest to the tightest; see `bounds.enclose`. The
        last two go back once for every hidden number, so they are for small networks.
      outward: certify the network as computed in floating point, in whatever order sums are taken; on deep networks
        that costs certificates. Else, as other verifiers do, the network of real numbers, up to rounding of the bounds.
      batch_size: images on the device at a time.
      out: a folder for certificates.npz and certificates.json.

    Returns:
      A `Certification` whose radii are eps or 0, and whose lower bounds are NaN.

    Raises:
      ValueError: in one line, as `certify`, and for a network with an operation that has no bounds.

    Reference: Gowal et al. 2018, arXiv:1810.12715; Zhang et al. 2018, arXiv:1811.00866.
    """
    began, who = time.perf_counter(), "certify_bounds"
    checks.folder(who, out)
    if method not in METHODS:
        raise ValueError(f"{who}: method is {method!r}, must be one of {', '.join(METHODS)}")
    images, labels, _, seen, run = _entered(who, network, x, y, lower, upper, batch_size, 0)
    eps = checks.radius(who, eps, norm=norm, shape=images.shape[1:], lower=lower, upper=upper)
    threat = Threat(norm, eps, lower, upper)
    logits = _batched(run(_answers), images, batch_size)
    guess = _predicted(logits)
    margin = run(_worst_margin, method, outward)
    worst = _batched(lambda z, k: margin(z, k, threat), images, batch_size, np.maximum(guess, 0))
    # A margin within the rounding of bounds proves nothing.
    within = 0.0 if outward else ROUNDING * np.maximum(1.0, np.abs(logits).max(axis=1))
    proved = (worst < -within) & (guess >= 0)
    done = Certification(
        f"{norm} {eps:.4g}, certificates by {method.upper()} bounds, {len(images)} images",
        labels,
        guess,
        Certificate(
            np.where(proved, guess, ABSTAIN).astype(np.int32),
            np.where(proved, eps, 0.0),
            np.full(len(images), np.nan),
        ),
        (eps,),
        f"certain, {'for the network as computed in float32' if outward else 'up to rounding in float32'}; images "
        "without a certificate may be robust all the same",
        checks.joined(seen, (checks.answered(guess),)),
        time.perf_counter() - began,
    )
    if out is not None:
        _write(Path(out), done, {"method": method, "norm": norm, "eps": eps, "outward": outward})
    return done


def _settings(who: str, sigma: Any, n0: Any, n: Any, alpha: Any, side: float) -> None:
    checks.positive(who, "sigma", sigma)
    if sigma > WIDEST * side:
        raise ValueError(
            f"{who}: sigma is {sigma:g}, must be at most {WIDEST * side:g}, {WIDEST:g} times the width of the box; "
            "of noise in bytes take sigma / 255"
        )
    checks.count(who, "n0", n0, most=MOST)
    checks.count(who, "n", n, most=MOST)
    checks.share(who, "alpha", alpha)
    if alpha ** (1 / n) < 0.5:
        least = math.ceil(math.log2(1 / alpha))
        raise ValueError(
            f"{who}: n is {n}, must be at least {least} at alpha {alpha:g}: with less all abstain"
        )


def _radii(who: str, radii: Sequence[float] | None, sigma: float) -> tuple[float, ...]:
    if radii is None:
        return tuple(fraction * float(sigma) for fraction in FRACTIONS)
    if not isinstance(radii, Sequence | np.ndarray) or isinstance(radii, str) or np.ndim(radii) != 1:
        raise ValueError(f"{who}: radii is {radii!r}, must be a list of numbers")
    for radius in radii:
        checks.positive(who, "a radius", radius)
    return tuple(float(radius) for radius in radii)


def _entered(
    who: str, network: Any, x: Any, y: Any, lower: float, upper: float, batch_size: Any, seed: Any
) -> tuple[np.ndarray, np.ndarray, int, tuple[Flag, ...], Callable[..., Callable]]:
    """Check what is common to all certificates; the last result builds a compiled program for the network."""
    checks.count(who, "batch_size", batch_size)
    checks.seed(who, seed)
    logits_fn: Any = network.logits_fn if isinstance(network, Network) else network
    images = checks.images(who, x, lower=lower, upper=upper)
    classes = checks.logits(who, logits_fn, images)
    labels = checks.labels(who, y, count=len(images), classes=classes)
    found = checks.network(who, logits_fn, images, lower=lower, upper=upper)
    flags = (*(_of_certificates(flag) for flag in found), checks.class_counts(labels, classes))

    def run(build: Callable, *settings: Any) -> Callable:
        # A model's programs are kept for its next weights. A function may have changed what it closes over: it is
        # traced anew in every call.
        if not isinstance(network, Network):
            return jax.jit(in_float32(build(lambda: network, *settings)))
        return functools.partial(_kept(build, network.model, *settings), network.params, network.state)

    return images, labels, classes, flags, run


def _of_certificates(flag: Flag) -> Flag:
    """Say what random outputs mean here."""
    if not (flag.raised and flag.name == "random outputs"):
        return flag
    spread = flag.evidence["spread"]
    says = f"two passes of the same images differ by up to {spread:.2g}; a certificate is about one fixed function"
    return flag._replace(says=says)


@functools.lru_cache(maxsize=16)
def _kept(build: Callable, model: Model, *settings: Any) -> Callable:
    def system(params: Any, state: Any) -> LogitsFn:
        return frozen(model, params, state)

    def program(params: Any, state: Any, *arguments: Any) -> Any:
        return build(lambda: system(params, state), *settings)(*arguments)

    return jax.jit(in_float32(program))


def _answers(system: Callable[[], LogitsFn]) -> Callable[[Array], Array]:
    return lambda x: system()(x).astype(jnp.float32)


def _counter(system: Callable[[], LogitsFn], classes: int, chunk_size: int) -> Callable:
    def count(key: PRNGKeyArray, x: Array, samples: Array, sigma: Array) -> Array:
        counted = votes(system(), in_pixels(sigma), classes=classes, chunk_size=chunk_size)
        return counted(key, x, samples)

    return count


def _worst_margin(system: Callable[[], LogitsFn], method: Method, outward: bool) -> Callable:
    def margin(x: Array, label: Array, threat: Threat) -> Array:
        return margins(system(), threat, x, label, method=method, outward=outward)

    return margin


def _one(
    count: Callable, key: PRNGKeyArray, image: np.ndarray, *, sigma: float, n0: int, n: int, alpha: float
) -> Arrays:
    """Certify one image: as `smoothing.certify`, and tell how many samples had no class."""
    chosen, counts = (
        np.asarray(count(jax.random.fold_in(key, part), image[None], jnp.int32(samples), jnp.float32(sigma)))
        for part, samples in enumerate((n0, n))
    )
    best = chosen.argmax(axis=1)
    found = certificate(best, counts[:, best[0]], n, sigma=sigma, alpha=alpha)
    return {**found._asdict(), "lost": n - counts.sum(axis=1)}


def _batched(call: Callable[..., Array], images: np.ndarray, size: int, *others: np.ndarray) -> np.ndarray:
    """Run over images in batches of one size, so that it compiles once; the last is filled with its first image."""
    rows = np.arange(-(-len(images) // size) * size if len(images) > size else len(images))
    rows = np.where(rows < len(images), rows, 0).reshape(-1, min(size, len(images)))
    found = [np.asarray(call(images[r], *(other[r] for other in others))) for r in rows]
    return np.concatenate(found)[: len(images)]


def _predicted(logits: np.ndarray) -> np.ndarray:
    return np.where(checks.sound(logits), logits.argmax(axis=1), ABSTAIN).astype(np.int32)


def _lost_votes(lost: np.ndarray, n: int) -> Flag:
    share = float(lost.mean() / n)
    says = (
        f"{100 * share:.3g} % of the noisy images have NaN logits and count for no class, which lowers radii"
    )
    return Flag("lost votes", share > 0, says if share else "every noisy image has a class", {"share": share})


def _out_of_reach(radii: Sequence[float], largest: float, n: int, alpha: float) -> Flag:
    beyond = [radius for radius in radii if radius > largest]
    says = f"{n} samples at alpha {alpha:g} certify no radius above {largest:.4g}"
    return Flag("radius out of reach", bool(beyond), says, {"largest": largest})


def _write(folder: Path, found: Certification, about: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {**found.certificate._asdict(), "true": found.label, "prediction": found.prediction}
    write_whole(folder / "certificates.npz", in_bytes(arrays))
    whole = {
        **about,
        "accuracy": [
            {"of": name, "value": a.value, "95 % interval": [a.low, a.high]} for name, a in found.rows()
        ],
        "average certified radius": found.average_radius,
        "flags": [plain(flag) for flag in found.flags],
        "seconds": found.seconds,
        "made_with": made_with(),
        "examples": [
            {"label": int(y), "prediction": int(p), "certified": int(c), "radius": float(r)}
            for y, p, c, r in zip(
                found.label,
                found.prediction,
                found.certificate.label,
                found.certificate.radius,
                strict=True,
            )
        ],
    }
    strict_json.write(folder / "certificates.json", whole)
