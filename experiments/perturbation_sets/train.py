"""Learn a perturbation from pairs of images: train a conditional autoencoder, choose its radius, say how good it is.

    python -m experiments.perturbation_sets.train digits --out runs/cvae_digits
    python -m experiments.perturbation_sets.train mnist_stn_rts --out runs/cvae_rts
    python -m experiments.perturbation_sets.train cifar10 --out runs/cvae_cifar10
    python -m experiments.perturbation_sets.train digits --folder my/pairs --model rectangle --out runs/cvae_mine

--folder reads pairs of pictures: image/NAME.png with perturbed/NAME.png or perturbed/NAME/ANY.png. Every tenth image is
for validation and every tenth for the test, with all its views.

The presets beside digits and smoke are the settings of Wong and Kolter 2020, arXiv:2007.08450. Start it again with the
same --out and it goes on bit for bit. The folder gets quality.json, report.html and the checkpoints; the radius is the
largest encoding of validation pairs, and what is measured at it is measured on test pairs. Batches are cut over all
devices; on several machines, the same command on each with --distributed (and --cluster.* where no scheduler tells).
"""

import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from experiments.perturbation_sets import autoencoders
from experiments.perturbation_sets.config import PRESETS, Config
from experiments.shared import command_line, run_folders
from robustjax import data, evaluation, optimizers, runtime, training
from robustjax.data import subsets
from robustjax.losses.elbo import elbo, interpolated, on_pairs
from robustjax.models.cvae import CVAE
from robustjax.perturbations.learned import Encoding, encoder, learned, perturbed
from robustjax.perturbations.pairs import Pairs
from robustjax.perturbations.quality import Norms, Quality, norms, quality
from robustjax.perturbations.sets import PerturbationSet
from robustjax.runtime import figures, image_grids
from robustjax.runtime.report import Report
from robustjax.types import Batch, Images, Loss

Encode = Callable[[Images, Images], Encoding]
MAY_DIFFER = ("images", "passes", "steps")


def main(cfg: Config) -> int:
    """Train, choose the radius, measure, report."""
    cfg.cluster.join(cfg.distributed)
    mesh = runtime.data_mesh()
    sharding = runtime.over_data(mesh)
    train, valid, test = autoencoders.splits(cfg)
    valid, test = subsets.first(valid, cfg.images), subsets.first(test, cfg.images)
    draw, model = autoencoders.drawn(cfg), autoencoders.built(cfg, train)
    total, epoch = autoencoders.updates(cfg, train)
    rate, beta = interpolated(cfg.rate_at, cfg.rate), interpolated(cfg.beta_at, cfg.beta)
    tx = optimizers.adam(
        lambda t: rate(jnp.asarray(t + 1, jnp.float32) / epoch), weight_decay=cfg.weight_decay
    )

    def loss_at(t: jax.Array) -> Loss:
        # The rate follows every update, beta whole epochs.
        now = beta(jnp.floor(t.astype(jnp.float32) / epoch))
        return on_pairs(elbo(model, beta=now, likelihood=cfg.likelihood), draw.learnt)

    state, code = run_folders.fitted(
        cfg,
        train,
        training.scheduled(loss_at, tx),
        lambda: training.start(jax.random.key(cfg.seed), model, tx, mesh),  # pyright: ignore[reportArgumentType]
        lambda state: autoencoders.begun(cfg, model, state, mesh),
        total=total,
        batch_size=cfg.batch_size,
        sharding=sharding,
        may_differ=MAY_DIFFER,
    )
    if code:
        return code
    found, measured = judged(cfg, model, state, draw, valid, test, sharding)
    page = {"radius": found.largest, "encodings": found._asdict()} | {
        name: float(getattr(measured, name).mean()) for name in Quality._fields
    }
    if jax.process_index() != 0:
        return 0
    folder = pathlib.Path(cfg.out)
    runtime.write_whole(folder / "quality.json", json.dumps(page, indent=2) + "\n")
    print("\n".join(f"{name:15s} {value:.5g}" for name, value in page.items() if isinstance(value, float)))
    params, statistics = jax.device_get((state.params, state.state))
    encode, space = (
        encoder(model, params, statistics),
        learned(model, params, statistics, radius=found.largest),
    )
    rows = pictures(encode, space, draw.fresh, test)
    place = report(cfg, model, found, measured, rows).write(folder / "report.html")
    runtime.say(f"report: {place}")
    return 0


def judged(
    cfg: Config,
    model: CVAE,
    state: training.TrainState,
    draw: autoencoders.Drawn,
    valid: data.Split,
    test: data.Split,
    sharding: NamedSharding,
) -> tuple[Norms, Quality]:
    """Choose the radius on validation pairs, from the pool that training had; measure on fresh test pairs."""
    trained = state.params, state.state

    def measure(keys: jax.Array, batch: Batch, params: Any, state: Any, radius: jax.Array) -> Quality:
        pairs, search = jax.vmap(jax.random.split, out_axes=1)(keys)
        run = quality(model, params, state, radius=radius, likelihood=cfg.likelihood, steps=cfg.steps)
        return run(search, *draw.fresh(pairs, batch.image))

    found = norms(jnp.asarray(autoencoders.lengths(model, draw.pool, valid, trained, cfg.passes, sharding)))
    runtime.say(f"radius {found.largest:.2f}; measuring {len(test.label)} test pairs")
    batches, radius = autoencoders.batches(test, sharding), np.float32(found.largest)
    return found, evaluation.mapped(measure)(jax.random.key(9), batches, *trained, radius)


def report(
    cfg: Config, model: CVAE, found: Norms, measured: Quality, rows: Sequence[Sequence[np.ndarray]]
) -> Report:
    """Write the page a person reads."""
    source = cfg.folder or f"{cfg.pairs} pairs of {cfg.dataset}"
    page = Report(f"A perturbation set learned from {source}", cfg)
    page.text(
        f"The radius is the largest encoding of {cfg.passes} passes over {cfg.images or 'all'} validation images: "
        f"{found.largest:.2f}, of {model.dimension} latents."
    )
    page.table([{"encodings": name, "length": value} for name, value in found._asdict().items()])
    page.table(
        [{"measured": name, "mean over test pairs": float(getattr(measured, name).mean())} for name in Quality._fields],
        caption="Errors per pixel: nearest and farthest that a search finds in the ball, at the encoding, on "
        "average over the ball, and of reconstructions; divergence of the posterior in nats; length of encodings.",
    )  # fmt: skip
    page.picture(
        image_grids.grid(rows, columns=["image", "real", "encoded", *["imagined"] * 5]),
        caption="Test images, a real perturbation, what decoding its encoding gives, and draws from the set.",
    )
    page.picture(
        figures.training(runtime.read_metrics(cfg.out), names=("reconstruction", "kl")),
        caption="Training: error summed over pixels, divergence in nats.",
    )
    return page


def pictures(
    encode: Encode, space: PerturbationSet, fresh: Pairs, test: data.Split
) -> Sequence[Sequence[np.ndarray]]:
    """Decode what the page shows."""
    x = autoencoders.as_images(test, slice(5))
    views = fresh(jax.random.key(3), x)
    keys, encoding = jax.random.split(jax.random.key(0), 5), encode(*views).mean
    back = space.decode(keys, space.prepare(views.image), encoding)
    draws = [perturbed(space)(jax.random.key(i), views.image) for i in range(5)]
    columns = [np.asarray(a) for a in (views.image, views.perturbed, back, *draws)]
    return [[column[i] for column in columns] for i in range(5)]


if __name__ == "__main__":
    command_line.script(main, PRESETS, __doc__)
