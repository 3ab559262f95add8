"""Judge a learned perturbation set over radii: what it holds, how far it reaches, what the theorems promise.

    python -m experiments.perturbation_sets.evaluate digits --run runs/cvae --out runs/cvae_judged
    python -m experiments.perturbation_sets.evaluate mnist_dense_linf --run runs/cvae_mnist_dense --images 500
    python -m experiments.perturbation_sets.evaluate digits --export

--run is a folder of `train`. Test pairs are searched at the quartiles and the largest of the encodings' lengths,
or at --radii; the presets beside digits and smoke have the radii of Wong and Kolter 2020, arXiv:2007.08450. The folder
gets one file per radius, quality.json and report.html; started again with the same --out, finished radii are not done
again.
--export adds the decoder as a program: StableHLO as bytes (decoder.mlirbc) and text, and what jax.export can read where
the package flatbuffers is installed.
"""

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from experiments.perturbation_sets import autoencoders, evaluate_report
from experiments.perturbation_sets.config import FAMILIES
from experiments.shared import command_line
from robustjax import data, evaluation, runtime
from robustjax.attacks.pgd import pgd
from robustjax.data import subsets
from robustjax.models.cvae import error
from robustjax.perturbations import theorems
from robustjax.perturbations.exported import exported, saved
from robustjax.perturbations.learned import encoder, learned, perturbed
from robustjax.perturbations.pairs import Pairs
from robustjax.perturbations.quality import Quality, conformal_radius, coverage, nearest_from, quality
from robustjax.perturbations.sets import ascent_through
from robustjax.perturbations.truncated import truncated_normal
from robustjax.runtime.snapshot import in_bytes
from robustjax.threats import Threat
from robustjax.types import Batch

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Config:
    """Judge a learned set."""

    run: str = "runs/cvae"  # a folder of perturbation_sets.train
    pairs: str | None = (
        None  # that are judged, by a name of perturbation_sets.train's; those it was learned from by default
    )
    radii: tuple[float, ...] = ()  # quartiles and the largest of the encodings' lengths by default
    passes: int = 5  # over the validation images, with other perturbations, for these lengths
    steps: int = 50  # of every search
    starts: int = 5  # of the search for what is farthest
    draws: int = 5  # for the average over a ball
    images: int | None = 1000  # validation and test images that are used, None for all
    excess: float = 0.1  # probability that the first theorem gives up
    tolerance: float = 0.01  # error per pixel up to which a perturbation counts as covered
    batch_size: int = 128  # over all devices
    export: bool = False  # write the decoder as a program
    seed: int = 0
    out: str = "runs/cvae_judged"
    data_dir: str | None = None

    def check(self) -> None:
        """Refuse what cannot be meant, before any work."""
        for name in ("passes", "steps", "starts", "draws", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} is {getattr(self, name)}, must be at least 1")
        if self.pairs is not None and self.pairs not in FAMILIES:
            raise ValueError(f"--pairs is {self.pairs!r}, must be one of {', '.join(FAMILIES)}")
        if self.radii and (min(self.radii) <= 0 or list(self.radii) != sorted(set(self.radii))):
            raise ValueError(f"--radii is {self.radii}, must be above 0 and grow")
        if not 0 < self.excess < 1:
            raise ValueError(f"--excess is {self.excess:g}, must be in (0, 1)")


# As published, all sets of corruptions are judged on clean images and their corruptions.
_CIFAR: dict[str, Any] = {"pairs": "corrupted", "images": None}
_RADII = (2.7, 3.9, 10.2, 28.0)
PRESETS = {
    "digits": Config(),
    "mnist_dense_linf": Config(run="runs/cvae_mnist_dense", radii=(28.0,), images=None),
    "mnist_conv_linf": Config(run="runs/cvae_mnist_conv", radii=(29.0,), images=None),
    "mnist_stn_rts": Config(run="runs/cvae_mnist_rts", radii=(14.0,), images=None),
    "mnist_stn_rts_limited_1": Config(run="runs/cvae_mnist_rts_1", radii=(14.0,), images=None),
    "mnist_stn_rts_limited_5": Config(run="runs/cvae_mnist_rts_5", radii=(14.0,), images=None),
    "cifar10": Config(run="runs/cvae_cifar10", radii=_RADII, **_CIFAR),
    "cifar10_nooriginal": Config(run="runs/cvae_cifar10_nooriginal", radii=_RADII, **_CIFAR),
    "cifar10_withoriginal": Config(run="runs/cvae_cifar10_withoriginal", radii=(34.0,), **_CIFAR),
    "mip5": Config(run="runs/cvae_mip5", radii=(7.35, 8.81, 17.0), images=None, batch_size=16),
    "mip4": Config(run="runs/cvae_mip4", radii=(25.0,), images=None, batch_size=8),
    "mip3": Config(run="runs/cvae_mip3", radii=(21.0,), images=None, batch_size=4),
    "smoke": Config(passes=1, steps=2, starts=1, draws=1, images=8, batch_size=8, radii=(0.5, 1.0)),
}
MAY_DIFFER = ("out", "data_dir", "export", "radii")


def main(cfg: Config) -> int:
    """Measure every radius that is not measured, then write the page."""
    mesh, it = runtime.data_mesh(), autoencoders.opened(cfg.run, data_dir=cfg.data_dir)
    _, valid, test = it.splits
    valid, test = subsets.first(valid, cfg.images), subsets.first(test, cfg.images)
    with runtime.Run(cfg.out, cfg, may_differ=MAY_DIFFER) as run:

        def kept(name: str, job: Callable[[], Arrays]) -> Arrays:
            path = run.folder / "cells" / f"{name}.npz"
            if not path.exists():
                path.parent.mkdir(exist_ok=True)
                runtime.write_whole(path, in_bytes(job()))
            with np.load(path) as arrays:
                return dict(arrays)

        def encoded() -> Arrays:
            pool, trained = autoencoders.drawn(it.config).pool, runtime.place((it.params, it.state), mesh)
            return {
                "lengths": autoencoders.lengths(
                    it.model, pool, valid, trained, cfg.passes, runtime.over_data(mesh)
                )
            }

        lengths = kept("lengths", encoded)["lengths"]
        quartiles = np.quantile(lengths, [0.25, 0.5, 0.75])
        radii = cfg.radii or tuple(float(r) for r in (*quartiles, lengths.max()))
        measure = measured(cfg, it, mesh)
        cells = []
        for _, radius in runtime.progress(radii, total=len(radii), label="radii"):
            job = lambda r=radius: measure(jax.random.key(cfg.seed), test, r)  # noqa: E731
            cells.append(kept(f"radius_{radius:.4g}", job))
        promised = kept("theorems", lambda: promises(cfg, it, test, radii[-1]))
        pictures = kept("pictures", lambda: drawn(cfg, it, test, radii[-1]))
        found = {
            "run": cfg.run,
            "updates": it.step,
            "latents": it.model.dimension,
            "conformal radius, 1 miss in 100": conformal_radius(jnp.asarray(lengths), miss=0.01),
            "radii": [summary(cell, r, cfg.tolerance) for cell, r in zip(cells, radii, strict=True)],
        }
        runtime.write_whole(run.folder / "quality.json", json.dumps(found, indent=2) + "\n")
        for row in found["radii"]:
            print("  ".join(f"{name} {value:.4g}" for name, value in row.items()))
        if cfg.export:
            space = learned(it.model, it.params, it.state, radius=radii[-1])
            for path in saved(exported(space, it.model.shape), run.folder):
                runtime.say(f"exported: {path}")
        place = evaluate_report.page(cfg, found, lengths, promised, pictures).write(
            run.folder / "report.html"
        )
    runtime.say(f"report: {place}")
    return 0


def judged_on(cfg: Config, it: autoencoders.Learned) -> Pairs:
    """Give the pairs that are judged: fresh ones of the kind that the set was learned from, or another kind."""
    return autoencoders.drawn(it.config).fresh if cfg.pairs is None else FAMILIES[cfg.pairs]()


def measured(cfg: Config, it: autoencoders.Learned, mesh: Mesh) -> Callable[..., Arrays]:
    """Build (key, split, radius) -> what `quality` measures per test pair, compiled once for all radii."""
    fresh, sharding = judged_on(cfg, it), runtime.over_data(mesh)
    trained = runtime.place((it.params, it.state), mesh)

    def judge(keys: jax.Array, batch: Batch, params: Any, state: Any, radius: jax.Array) -> Quality:
        draw, search = jax.vmap(jax.random.split, out_axes=1)(keys)
        settings: Any = {"likelihood": it.config.likelihood, "steps": cfg.steps, "starts": cfg.starts}
        run = quality(it.model, params, state, radius=radius, draws=cfg.draws, **settings)
        return run(search, *fresh(draw, batch.image))

    compiled = evaluation.mapped(judge)

    def measure(key: jax.Array, split: data.Split, radius: float) -> Arrays:
        batches = autoencoders.batches(split, sharding, size=cfg.batch_size)
        return compiled(key, batches, *trained, np.float32(radius))._asdict()

    return measure


def summary(cell: Arrays, radius: float, tolerance: float) -> dict[str, float]:
    """Average over pairs; `inside`: share of encodings in the ball, `covered`: of perturbations it comes near to."""
    means = {name: float(cell[name].mean()) for name in Quality._fields}
    shares = {"inside": coverage(cell["norm"], radius), "covered": coverage(cell["nearest"], tolerance)}
    return {"radius": radius} | means | {name: float(share) for name, share in shares.items()}


def promises(cfg: Config, it: autoencoders.Learned, test: data.Split, radius: float) -> Arrays:
    """Compute both theorems for the first test pairs, beside what a search and draws find; squares only."""
    if it.config.likelihood != "gaussian":
        return {}
    rows = min(32, len(test.label))
    key = jax.random.key(cfg.seed)
    views = judged_on(cfg, it)(key, autoencoders.as_images(test, slice(rows)))
    # Squares are those of a likelihood of variance beta / 2; the theorems are stated in units of its deviation.
    unit = max(it.config.beta[-1], 1e-6) / 2

    @jax.jit
    def compute(params: Any, state: Any) -> dict[str, jax.Array]:
        found, space = (
            encoder(it.model, params, state)(*views),
            learned(it.model, params, state, radius=radius),
        )
        ready = space.prepare(views.image)

        def missed(u: jax.Array) -> jax.Array:
            raw, _ = it.model.decode(params, state, views.image, ready.mean + u * ready.std)
            return error(raw, views.perturbed, "gaussian", it.model.link) / unit

        def posterior(key: jax.Array) -> tuple[jax.Array, jax.Array]:
            u = found.mean + found.std * jax.random.normal(key, found.mean.shape)
            return missed(u), jnp.linalg.norm(u, axis=1) <= radius

        def prior(key: jax.Array) -> jax.Array:
            u = truncated_normal(key, rows, space.dimension, radius)
            return -0.5 * missed(u)

        seen, inside = jax.lax.map(posterior, jax.random.split(jax.random.fold_in(key, 1), 64))
        likely = jax.lax.map(prior, jax.random.split(jax.random.fold_in(key, 2), 256))
        expected, share = seen.mean(axis=0), inside.mean(axis=0)
        promise = theorems.nearest_bound(found, expected, excess=cfg.excess)
        ball = Threat("l2", promise.radius, -jnp.inf, jnp.inf)
        origin = space.origin(views.image)
        nearest = nearest_from(ball, missed, origin, ball.project(found.mean, origin), steps=cfg.steps)
        return {
            "radius": promise.radius,
            "promised": promise.error,
            "nearest": nearest,
            "bound": theorems.expected_bound(found, expected, share, radius=radius),
            "likelihood": jax.nn.logsumexp(likely, axis=0) - jnp.log(256.0),
        }

    return {name: np.asarray(value) for name, value in compute(it.params, it.state).items()}


def drawn(cfg: Config, it: autoencoders.Learned, test: data.Split, radius: float) -> Arrays:
    """Decode what the page shows."""
    key = jax.random.key(cfg.seed)
    x = autoencoders.as_images(test, slice(4))
    fresh, space = judged_on(cfg, it), learned(it.model, it.params, it.state, radius=radius)
    real = [fresh(jax.random.fold_in(key, i), x) for i in range(24)]
    clean = real[0].image
    found = encoder(it.model, it.params, it.state)(*real[0])
    ways = np.argsort(-np.asarray(found.kl()).mean(axis=0))[:4]
    places = jnp.linspace(-radius, radius, 9)

    @jax.jit
    def strip(one: jax.Array, way: jax.Array) -> jax.Array:
        u = jnp.zeros((9, space.dimension)).at[:, way].set(places)
        return space.decode(key, space.prepare(jnp.repeat(one[None], 9, axis=0)), u)

    @jax.jit
    def farthest(clean: jax.Array) -> jax.Array:

        far = ascent_through(space, pgd(space.threat, steps=cfg.steps, step_size=radius / 10))
        return far(key, lambda z: jnp.square(z - clean).mean(axis=(1, 2, 3)), clean).x

    perturb = jax.jit(perturbed(space))
    seen = np.stack([np.asarray(view.perturbed) for view in real])
    apart = np.square(seen - np.asarray(clean)).mean(axis=(2, 3, 4)).argmax(axis=0)
    back = space.decode(key, space.prepare(clean), space.threat.project(found.mean, space.origin(clean)))
    return {
        "strips": np.stack([np.asarray(strip(clean[i % len(clean)], way)) for i, way in enumerate(ways)]),
        "ways": ways,
        "clean": np.asarray(clean),
        "real": seen[0],
        "encoded": np.asarray(back),
        "imagined": np.stack(
            [np.asarray(perturb(jax.random.fold_in(key, i), clean)) for i in range(5)], axis=1
        ),
        "observed": seen[apart, np.arange(len(clean))],
        "farthest": np.asarray(farthest(clean)),
    }


if __name__ == "__main__":
    command_line.script(main, PRESETS, __doc__)
