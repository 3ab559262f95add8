"""Evaluate a learned perturbation set over radii: what it holds, how far it reaches, what the theorems promise.

    python -m experiments.perturbation_sets.evaluate digits --run runs/cvae --out runs/cvae_evaluated
    python -m experiments.perturbation_sets.evaluate mnist_dense_linf --run runs/cvae_mnist_dense --images 500
    python -m experiments.perturbation_sets.evaluate digits --export

--run is a folder of `train`. Test pairs are searched at the quartiles and the largest of the encodings' norms,
or at --radii; the presets beside digits and smoke have the radii of Wong and Kolter 2020, arXiv:2007.08450. The folder
gets one file per radius, quality.json and report.html; started again with the same --out, finished radii are not done
again.
--export adds the decoder as a program: StableHLO as bytes (decoder.mlirbc) and text, and what jax.export can read where
the package flatbuffers is installed.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from experiments.perturbation_sets import report
from experiments.perturbation_sets.config import EVALUATE_PRESETS as PRESETS
from experiments.perturbation_sets.config import EvaluateConfig
from experiments.perturbation_sets.networks import (
    LearnedSet,
    as_images,
    batches,
    encoding_norms,
    open_set,
    pairs_of,
)
from experiments.shared import command_line, report_pieces
from robustjax import data, evaluation, runtime
from robustjax.attacks.pgd import pgd
from robustjax.catalog.learned_sets import PAIRS
from robustjax.catalog.names import named
from robustjax.data import subsets
from robustjax.models.cvae import error
from robustjax.numerics import in_float32
from robustjax.perturbations import theorems
from robustjax.perturbations.exported import exported, saved
from robustjax.perturbations.learned import encoder, learned, perturbed
from robustjax.perturbations.pairs import Pairs
from robustjax.perturbations.quality import Quality, conformal_radius, coverage, nearest_from, quality
from robustjax.perturbations.sets import ascent_through
from robustjax.perturbations.truncated import truncated_normal
from robustjax.runtime import strict_json
from robustjax.threats import Threat
from robustjax.types import Batch, Params, State

Arrays = dict[str, np.ndarray]
CONFORMAL_PAIRS = 99  # fewer allow no finite radius at alpha 0.01
BETWEEN = 7  # points of an interpolation, its ends among them
MAY_DIFFER = ("out", "data_dir", "export", "radii")


def main(cfg: EvaluateConfig) -> int:
    """Measure every radius that is not measured, then write the report."""
    # --- set and data ---
    mesh, learned_set = runtime.data_mesh(), open_set(cfg.run, data_dir=cfg.data_dir)
    _, valid, test = learned_set.splits
    valid, test = subsets.subset(valid, cfg.images), subsets.subset(test, cfg.images)
    made = pairs_of(learned_set.config)
    pairs = made.unlimited if cfg.pairs is None else named(PAIRS, cfg.pairs, flag="--pairs")()

    with runtime.Run(cfg.out, cfg, may_differ=MAY_DIFFER) as run:
        # --- radii ---
        def encoded() -> Arrays:
            trained = runtime.place((learned_set.params, learned_set.state), mesh)
            norms = encoding_norms(
                learned_set.model, made.limited, valid, trained, runtime.over_data(mesh), samples=cfg.samples
            )
            return {"norms": norms}

        norms = run.cached("cells/norms", encoded)["norms"]
        quartiles = np.quantile(norms, [0.25, 0.5, 0.75])
        radii = cfg.radii or tuple(float(r) for r in (*quartiles, norms.max()))

        # --- quality at each radius, theorems, examples ---
        measure = quality_at(cfg, learned_set, pairs, mesh)
        cells: list[Arrays] = []
        for _, radius in runtime.progress(radii, total=len(radii), label="radii"):
            cells.append(
                run.cached(
                    f"cells/radius_{radius:.4g}",
                    lambda r=radius: measure(jax.random.key(cfg.seed), test, r),
                )
            )
        bounds = run.cached(
            "cells/theorems", lambda: theorem_bounds(cfg, learned_set, pairs, test, radii[-1])
        )
        examples = run.cached(
            "cells/examples", lambda: example_images(cfg, learned_set, pairs, test, radii[-1])
        )

        # --- results ---
        numbers = {
            "run": cfg.run,
            "updates": learned_set.step,
            "latents": learned_set.model.dimension,
            "conformal radius, alpha 0.01": (
                conformal_radius(jnp.asarray(norms), alpha=0.01) if len(norms) >= CONFORMAL_PAIRS else None
            ),
            "radii": [means(cell, r, cfg.tolerance) for cell, r in zip(cells, radii, strict=True)],
        }
        strict_json.write(run.folder / "quality.json", numbers, indent=2)
        for row in numbers["radii"]:
            print("  ".join(f"{name} {value:.4g}" for name, value in row.items()))
        if cfg.export:
            space = learned(learned_set.model, learned_set.params, learned_set.state, radius=radii[-1])
            for path in saved(exported(space, learned_set.model.shape), run.folder):
                runtime.say(f"exported: {path}")
        page = report.evaluation(cfg, numbers, norms, bounds, examples)
        page.text(report_pieces.images(valid, test))
        runtime.say(f"report: {page.write(run.folder / 'report.html')}")
    return 0


def quality_at(
    cfg: EvaluateConfig, learned_set: LearnedSet, pairs: Pairs, mesh: Mesh
) -> Callable[[jax.Array, data.Split, float], Arrays]:
    """Build (key, split, radius) -> what `quality` measures per test pair, compiled once for all radii."""
    model, made, sharding = learned_set.model, learned_set.config, runtime.over_data(mesh)
    trained = runtime.place((learned_set.params, learned_set.state), mesh)

    def one(keys: jax.Array, batch: Batch, params: Params, state: State, radius: jax.Array) -> Quality:
        for_pairs, for_searches = jax.vmap(jax.random.split, out_axes=1)(keys)
        run = quality(
            model,
            params,
            state,
            radius=radius,
            likelihood=made.likelihood,
            steps=cfg.steps,
            restarts=cfg.restarts,
            samples=cfg.ball_samples,
        )
        return run(for_searches, *pairs(for_pairs, batch.image))

    compiled = evaluation.mapped(one)

    def measure(key: jax.Array, split: data.Split, radius: float) -> Arrays:
        rows = batches(split, sharding, size=cfg.batch_size)
        return compiled(key, rows, *trained, np.float32(radius))._asdict()

    return measure


def means(cell: Arrays, radius: float, tolerance: float) -> dict[str, float]:
    """Average over pairs; `inside`: share of encodings in the ball, `covered`: of perturbations it comes near to."""
    found = {name: float(cell[name].mean()) for name in Quality._fields}
    shares = {"inside": coverage(cell["norm"], radius), "covered": coverage(cell["nearest"], tolerance)}
    return {"radius": radius} | found | {name: float(share) for name, share in shares.items()}


def theorem_bounds(
    cfg: EvaluateConfig, learned_set: LearnedSet, pairs: Pairs, test: data.Split, radius: float
) -> Arrays:
    """Compute both theorems for the first test pairs, beside what a search and samples find; Gaussian only."""
    model, made = learned_set.model, learned_set.config
    if made.likelihood != "gaussian":
        return {}
    rows = min(32, len(test.label))
    key = jax.random.key(cfg.seed)
    real = pairs(key, as_images(test, slice(rows)))
    # Squares are those of a likelihood of variance beta / 2; the theorems are stated in units of its deviation.
    unit = max(made.beta[-1], 1e-6) / 2

    @jax.jit
    @in_float32
    def compute(params: Params, state: State) -> dict[str, jax.Array]:
        encoding = encoder(model, params, state)(*real)
        space = learned(model, params, state, radius=radius)
        ready = space.prepare(real.image)

        def squares(u: jax.Array) -> jax.Array:
            raw, _ = model.decode(params, state, real.image, ready.mean + u * ready.std)
            return error(raw, real.perturbed, "gaussian", model.link) / unit

        def posterior(key: jax.Array) -> tuple[jax.Array, jax.Array]:
            u = encoding.mean + encoding.std * jax.random.normal(key, encoding.mean.shape)
            return squares(u), jnp.linalg.norm(u, axis=1) <= radius

        def prior(key: jax.Array) -> jax.Array:
            u = truncated_normal(key, rows, space.dimension, radius)
            return -0.5 * squares(u)

        errors, inside = jax.lax.map(posterior, jax.random.split(jax.random.fold_in(key, 1), 64))
        likelihoods = jax.lax.map(prior, jax.random.split(jax.random.fold_in(key, 2), 256))
        expected, share = errors.mean(axis=0), inside.mean(axis=0)
        bound = theorems.nearest_bound(encoding, expected, excess=cfg.excess)
        ball = Threat("l2", bound.radius, -jnp.inf, jnp.inf)
        origin = space.origin(real.image)
        nearest = nearest_from(ball, squares, origin, ball.project(encoding.mean, origin), steps=cfg.steps)
        return {
            "radius": bound.radius,
            "nearest_bound": bound.error,
            "nearest": nearest,
            "likelihood_bound": theorems.expected_bound(encoding, expected, share, radius=radius),
            "likelihood": jax.nn.logsumexp(likelihoods, axis=0) - jnp.log(256.0),
        }

    found = compute(learned_set.params, learned_set.state)
    return {name: np.asarray(value) for name, value in found.items()}


def example_images(
    cfg: EvaluateConfig, learned_set: LearnedSet, pairs: Pairs, test: data.Split, radius: float
) -> Arrays:
    """Make the images of the report."""
    key = jax.random.key(cfg.seed)
    x = as_images(test, slice(4))
    trained = learned_set.params, learned_set.state
    space = learned(learned_set.model, *trained, radius=radius)
    real = [pairs(jax.random.fold_in(key, i), x) for i in range(24)]
    clean = real[0].image
    encoding = encoder(learned_set.model, *trained)(*real[0])
    latents = np.argsort(-np.asarray(encoding.kl()).mean(axis=0))[:4]
    values = jnp.linspace(-radius, radius, 9)

    @jax.jit
    def strip(one: jax.Array, latent: jax.Array) -> jax.Array:
        u = jnp.zeros((9, space.dimension)).at[:, latent].set(values)
        return space.decode(key, space.prepare(jnp.repeat(one[None], 9, axis=0)), u)

    @jax.jit
    def farthest(clean: jax.Array) -> jax.Array:
        ascent = ascent_through(space, pgd(space.threat, steps=cfg.steps, step_size=radius / 10))
        return ascent(key, lambda z: jnp.square(z - clean).mean(axis=(1, 2, 3)), clean).x

    @jax.jit
    def between(clean: jax.Array, first: jax.Array, last: jax.Array) -> jax.Array:
        """Decode points between encodings, (n, BETWEEN, h, w, c)."""
        shares = jnp.linspace(0.0, 1.0, BETWEEN)
        ready = space.prepare(clean)
        return jax.vmap(
            lambda t: space.decode(key, ready, (1.0 - t) * first + t * last), out_axes=1
        )(shares)  # fmt: skip

    perturb = jax.jit(perturbed(space))
    other = real[1].perturbed
    observed = np.stack([np.asarray(one.perturbed) for one in real])
    worst = np.square(observed - np.asarray(clean)).mean(axis=(2, 3, 4)).argmax(axis=0)
    inside = space.threat.project(encoding.mean, space.origin(clean))
    sampled = [np.asarray(perturb(jax.random.fold_in(key, i), clean)) for i in range(5)]
    return {
        "strips": np.stack([np.asarray(strip(clean[i % len(clean)], k)) for i, k in enumerate(latents)]),
        "latents": latents,
        "clean": np.asarray(clean),
        "real": observed[0],
        "other": np.asarray(other),
        "between": np.asarray(
            between(clean, encoding.mean, encoder(learned_set.model, *trained)(clean, other).mean)
        ),
        "encoded": np.asarray(space.decode(key, space.prepare(clean), inside)),
        "sampled": np.stack(sampled, axis=1),
        "observed": observed[worst, np.arange(len(clean))],
        "farthest": np.asarray(farthest(clean)),
    }


if __name__ == "__main__":
    command_line.script(main, PRESETS, __doc__)
