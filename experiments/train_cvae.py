"""Learn a perturbation from pairs of images: train a conditional autoencoder, choose its radius, say how good it is.

    python experiments/train_cvae.py digits --out runs/cvae_digits
    python experiments/train_cvae.py mnist_stn_rts --out runs/cvae_rts
    python experiments/train_cvae.py cifar10 --out runs/cvae_cifar10
    python experiments/train_cvae.py digits --folder my/pairs --model rectangle --out runs/cvae_mine

--folder reads pairs of pictures: image/NAME.png with perturbed/NAME.png or perturbed/NAME/ANY.png. Every tenth image is
for validation and every tenth for the test, with all its views.

The presets beside digits and smoke are the settings of Wong and Kolter 2020, arXiv:2007.08450. Start it again with the
same --out and it goes on bit for bit. The folder gets quality.json, report.html and the checkpoints; the radius is the
largest encoding of validation pairs, and what is measured at it is measured on test pairs.
"""

import json
from collections.abc import Sequence
from typing import Any

import common
import cvaes
import jax
import jax.numpy as jnp
import numpy as np
from cvaes import PRESETS, Config

from robustjax import data, evaluation, optimizers, runtime, training
from robustjax.losses.elbo import elbo, interpolated, on_pairs
from robustjax.models.cvae import CVAE
from robustjax.perturbations import pairs
from robustjax.perturbations.learned import encoder, learned, perturbed
from robustjax.perturbations.quality import Norms, Quality, norms, quality
from robustjax.runtime import figures, grids
from robustjax.runtime.report import Report
from robustjax.runtime.stopping import stopping
from robustjax.types import Batch, Loss

MAY_DIFFER = ("out", "data_dir", "save_every", "images", "passes", "steps")


def main(cfg: Config) -> int:
    """Train, choose the radius, measure, report."""
    train, valid, test = cvaes.splits(cfg)
    valid, test = common.first(valid, cfg.images), common.first(test, cfg.images)
    draw, model = cvaes.drawn(cfg), cvaes.built(cfg, train)
    total, epoch = cvaes.updates(cfg, train)
    rate, beta = interpolated(cfg.rate_at, cfg.rate), interpolated(cfg.beta_at, cfg.beta)
    tx = optimizers.adam(lambda t: rate((t + 1) / epoch), weight_decay=cfg.weight_decay)

    def loss_at(t: jax.Array) -> Loss:
        # The rate follows every update, beta whole epochs.
        now = beta(jnp.floor(t.astype(jnp.float32) / epoch))
        return on_pairs(elbo(model, beta=now, likelihood=cfg.likelihood), draw.learnt)

    update = training.scheduled(loss_at, tx)
    with (
        runtime.Run(cfg.out, cfg, may_differ=MAY_DIFFER) as run,
        runtime.Checkpoints(run.folder / "checkpoints", keep=1) as saved,
        stopping() as stop,
    ):
        state: Any = training.start(jax.random.key(cfg.seed), model, tx)  # pyright: ignore[reportArgumentType]
        state, begin = saved.restore(state) or (cvaes.begun(cfg, model, state), 0)
        run.resume(begin)
        stream = data.stream(train, batch_size=cfg.batch_size, seed=cfg.seed, start=begin)
        bar = runtime.progress(stream, total=total, start=begin, label="train", batch_size=cfg.batch_size)
        for i, batch in bar:
            state, metrics = update(state, batch)
            if i % 20 == 0 or i + 1 == total:
                run.record(i, metrics)
                bar.show(metrics)
            if (i + 1) % cfg.save_every == 0 or i + 1 == total:
                saved.save(i + 1, state)
            if stop.agreed(i + 1) and i + 1 < total:
                saved.save(i + 1, state)
                saved.wait()
                runtime.say(f"stopped after {i + 1} updates, saved; the same command goes on from there")
                return stop.exit_code
    found, measured = judged(cfg, model, state, draw.pool, draw.fresh, valid, test)
    page = {"radius": found.largest, "encodings": found._asdict()} | {
        name: float(getattr(measured, name).mean()) for name in Quality._fields
    }
    runtime.write_whole(run.folder / "quality.json", json.dumps(page, indent=2) + "\n")
    print("\n".join(f"{name:15s} {value:.5g}" for name, value in page.items() if isinstance(value, float)))
    place = report(cfg, model, state, draw.fresh, test, found, measured).write(run.folder / "report.html")
    runtime.say(f"report: {place}")
    return 0


def judged(
    cfg: Config,
    model: CVAE,
    state: training.TrainState,
    pool: pairs.Pairs,
    fresh: pairs.Pairs,
    valid: data.Split,
    test: data.Split,
) -> tuple[Norms, Quality]:
    """Choose the radius on validation pairs, from the pool that training had; measure on fresh test pairs."""
    encode = evaluation.mapped(
        lambda keys, batch, params, state: encoder(model, params, state)(*pool(keys, batch.image)).norm
    )

    def measure(keys: jax.Array, batch: Batch, params: Any, state: Any, radius: jax.Array) -> Quality:
        draw, search = jax.vmap(jax.random.split, out_axes=1)(keys)
        run = quality(model, params, state, radius=radius, likelihood=cfg.likelihood, steps=cfg.steps)
        return run(search, *fresh(draw, batch.image))

    lengths = [
        encode(jax.random.key(i), data.evaluation(valid, batch_size=128), state.params, state.state)
        for i in range(cfg.passes)
    ]
    found = norms(jnp.asarray(np.concatenate(lengths)))
    runtime.say(f"radius {found.largest:.2f}; measuring {len(test.label)} test pairs")
    batches = data.evaluation(test, batch_size=128)
    radius = jnp.float32(found.largest)
    return found, evaluation.mapped(measure)(jax.random.key(9), batches, state.params, state.state, radius)


def report(
    cfg: Config,
    model: CVAE,
    state: training.TrainState,
    fresh: pairs.Pairs,
    test: data.Split,
    found: Norms,
    measured: Quality,
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
    rows = pictures(model, state, fresh, test, found.largest)
    page.picture(
        grids.grid(rows, columns=["image", "real", "encoded", *["imagined"] * 5]),
        caption="Test images, a real perturbation, what decoding its encoding gives, and draws from the set.",
    )
    page.picture(
        figures.training(runtime.read_metrics(cfg.out), names=("reconstruction", "kl")),
        caption="Training: error summed over pixels, divergence in nats.",
    )
    return page


def pictures(
    model: CVAE, state: training.TrainState, fresh: pairs.Pairs, test: data.Split, radius: float
) -> Sequence[Sequence[np.ndarray]]:
    """Decode what the page shows."""
    x = cvaes.as_images(test, slice(5))
    views = fresh(jax.random.key(3), x)
    space = learned(model, state.params, state.state, radius=radius)
    encoding = encoder(model, state.params, state.state)(*views).mean
    back = space.decode(jax.random.split(jax.random.key(0), 5), space.prepare(views.image), encoding)
    draws = [perturbed(space)(jax.random.key(i), views.image) for i in range(5)]
    columns = [np.asarray(a) for a in (views.image, views.perturbed, back, *draws)]
    return [[column[i] for column in columns] for i in range(5)]


if __name__ == "__main__":
    common.script(main, PRESETS, __doc__)
