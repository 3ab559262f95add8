"""Learn a perturbation set from pairs of images: train a conditional autoencoder, choose its radius, measure it.

    python -m experiments.perturbation_sets.train digits --out runs/cvae_digits
    python -m experiments.perturbation_sets.train mnist_stn_rts --out runs/cvae_rts
    python -m experiments.perturbation_sets.train cifar10 --out runs/cvae_cifar10
    python -m experiments.perturbation_sets.train digits --folder my/pairs --model rectangle --out runs/cvae_mine

--folder reads pairs of image files: image/NAME.png with perturbed/NAME.png or perturbed/NAME/ANY.png. Every tenth image
is for validation and every tenth for the test, with all its perturbations.

The presets beside digits, lit_scenes and smoke are the settings of Wong and Kolter 2020, arXiv:2007.08450. Start it
again with the same --out and it goes on bit for bit. The folder gets quality.json, report.html and the checkpoints. The
radius is the largest norm of an encoding of validation pairs; quality at this radius is measured on test pairs. Batches
are cut over all devices; on several machines, run the same command on each with --distributed (and --cluster.* where no
scheduler tells).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from experiments.perturbation_sets import report
from experiments.perturbation_sets.config import TRAIN_PRESETS as PRESETS
from experiments.perturbation_sets.config import TrainConfig
from experiments.perturbation_sets.networks import (
    as_images,
    autoencoder,
    batches,
    encoding_norms,
    examples_of,
    pairs_of,
    restored,
    splits,
    stacked_shape,
)
from experiments.shared import command_line, report_pieces
from experiments.shared.planned import Planned, batch_of, of_step
from robustjax import data, evaluation, optimizers, runtime, training
from robustjax.data import subsets
from robustjax.losses.elbo import elbo, interpolated, on_pairs
from robustjax.models.cvae import CVAE
from robustjax.perturbations.learned import encoder, learned, perturbed
from robustjax.perturbations.pairs import Pairs
from robustjax.perturbations.quality import Quality, norms, quality
from robustjax.runtime import strict_json
from robustjax.types import Batch, Loss, Params, State

MAY_DIFFER = (
    *("out", "data_dir", "save_every", "distributed", "cluster"),
    *("images", "samples", "steps"),  # of the measurements
)


def main(cfg: TrainConfig) -> int:
    """Train, choose the radius, measure, report."""
    cfg.cluster.join(cfg.distributed)
    mesh = runtime.data_mesh()
    sharding = runtime.over_data(mesh)

    # --- data and network ---
    train, valid, test = splits(cfg)
    valid, test = subsets.subset(valid, cfg.images), subsets.subset(test, cfg.images)
    pairs, model = pairs_of(cfg), autoencoder(cfg, train.image.shape[1:])

    # --- training ---
    total, epoch = cfg.updates(len(train.label))
    loss_at, tx = learning(cfg, model, pairs.augmented, epoch)

    def start_from_another_run(state: training.TrainState) -> training.TrainState:
        if cfg.init_from is None:
            return state
        run = runtime.open_run(cfg.init_from, made_by="perturbation_sets.train")
        params, statistics = runtime.place(restored(run, model)[0], mesh)
        return state._replace(params=params, state=statistics)

    with (
        runtime.Run(cfg.out, cfg, may_differ=MAY_DIFFER) as run,
        runtime.Checkpoints(run.folder / "checkpoints", keep=1) as saved,
        runtime.stopping() as stop,
    ):
        state, _, exit_code = runtime.fit(
            training.scheduled(loss_at, tx),
            training.start(jax.random.key(cfg.seed), model, tx, mesh),  # pyright: ignore[reportArgumentType]
            lambda begin, _: data.stream(
                train, batch_size=cfg.batch_size, seed=cfg.seed, start=begin, sharding=sharding
            ),
            total=total,
            saved=saved,
            stop=stop,
            run=run,
            begun=start_from_another_run,
            save_every=cfg.save_every,
            batch_size=cfg.batch_size,
        )
    if exit_code:
        return exit_code

    # --- radius and quality ---
    trained = state.params, state.state
    found = norms(
        jnp.asarray(encoding_norms(model, pairs.limited, valid, trained, sharding, samples=cfg.samples))
    )
    runtime.say(f"radius {found.largest:.2f}; measuring {len(test.label)} test pairs")
    measure = evaluation.mapped(quality_of(cfg, model, pairs.unlimited))
    measured = measure(jax.random.key(9), batches(test, sharding), *trained, np.float32(found.largest))
    if jax.process_index() != 0:
        return 0

    # --- results ---
    numbers = {"radius": found.largest, "encodings": found._asdict()} | {
        name: float(getattr(measured, name).mean()) for name in Quality._fields
    }
    strict_json.write(run.folder / "quality.json", numbers, indent=2)
    print("\n".join(f"{name:15s} {value:.5g}" for name, value in numbers.items() if isinstance(value, float)))
    rows = example_images(
        model, jax.device_get(trained), found.largest, pairs.unlimited, as_images(test, slice(5))
    )
    page = report.training(cfg, model.dimension, found, measured, rows)
    page.text(report_pieces.images(valid, test))
    runtime.say(f"report: {page.write(run.folder / 'report.html')}")
    return 0


def learning(
    cfg: TrainConfig, model: CVAE, pairs: Pairs, epoch: float
) -> tuple[Callable[[jax.Array], Loss], optax.GradientTransformation]:
    """Build the loss from the number of updates done, and the optimiser, for epochs of so many updates."""
    rate, beta = interpolated(cfg.rate_at, cfg.rate), interpolated(cfg.beta_at, cfg.beta)
    tx = optimizers.adam(
        lambda t: rate(jnp.asarray(t + 1, jnp.float32) / epoch), weight_decay=cfg.weight_decay
    )

    def loss_at(t: jax.Array) -> Loss:
        # The rate follows every update, beta whole epochs.
        now = beta(jnp.floor(t.astype(jnp.float32) / epoch))
        return on_pairs(elbo(model, beta=now, likelihood=cfg.likelihood), pairs)

    return loss_at, tx


def planned(cfg: TrainConfig, mesh: Mesh, *, shape: tuple[int, ...], classes: int) -> list[Planned]:
    """List what a run does most of its time, for `benchmarks.plan`: the training step, pairs included.

    Args:
      cfg: the settings.
      mesh: of devices, which need not be there.
      shape: of the images, one picture of a scene; classes play no part.
    Raises:
      ValueError: for pairs from a folder, whose number is not known, as that of another set may be.
    """
    del classes
    if cfg.folder:
        raise ValueError("--folder is given, must be left out to be planned")
    total, epoch = cfg.updates(examples_of(cfg))
    stacked = stacked_shape(cfg, shape)
    model: Any = autoencoder(cfg, stacked)
    loss_at, tx = learning(cfg, model, pairs_of(cfg).augmented, epoch)
    step = training.scheduled(loss_at, tx)
    batch = batch_of(cfg.batch_size, stacked, of_pixels=shape[:2] if cfg.pixelwise else ())
    return [of_step(step, model, tx, batch, mesh, calls=total)]


def quality_of(cfg: TrainConfig, model: CVAE, pairs: Pairs) -> Any:
    """Build (keys, batch, params, state, radius) -> Quality of pairs made of a batch, for `evaluation.mapped`."""

    def measure(keys: jax.Array, batch: Batch, params: Params, state: State, radius: jax.Array) -> Quality:
        for_pairs, for_searches = jax.vmap(jax.random.split, out_axes=1)(keys)
        run = quality(model, params, state, radius=radius, likelihood=cfg.likelihood, steps=cfg.steps)
        return run(for_searches, *pairs(for_pairs, batch.image))

    return measure


def example_images(
    model: CVAE, trained: tuple[Params, State], radius: float, pairs: Pairs, x: jax.Array
) -> list[list[np.ndarray]]:
    """Make the rows of the report: image, real perturbation, decoded encoding, and five samples of the set."""
    encode, space = encoder(model, *trained), learned(model, *trained, radius=radius)
    real = pairs(jax.random.key(3), x)
    keys, encoding = jax.random.split(jax.random.key(0), len(x)), encode(*real).mean
    decoded = space.decode(keys, space.prepare(real.image), encoding)
    sampled = [perturbed(space)(jax.random.key(i), real.image) for i in range(5)]
    columns = [np.asarray(a) for a in (real.image, real.perturbed, decoded, *sampled)]
    return [[column[i] for column in columns] for i in range(len(x))]


if __name__ == "__main__":
    command_line.script(main, PRESETS, __doc__)
