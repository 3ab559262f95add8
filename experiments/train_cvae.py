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

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any

import common
import jax
import jax.numpy as jnp
import numpy as np

from robustjax import data, evaluation, optimizers, runtime, training
from robustjax.data.augment import crop, flip
from robustjax.data.paired import paired
from robustjax.losses.elbo import Likelihood, elbo, interpolated, on_pairs
from robustjax.models import cvae_rectangle, cvae_small, cvae_stn
from robustjax.models.cvae import CVAE
from robustjax.perturbations import pairs
from robustjax.perturbations.learned import encoder, learned, perturbed
from robustjax.perturbations.quality import Norms, Quality, norms, quality
from robustjax.runtime import figures, grids
from robustjax.runtime.report import Report
from robustjax.runtime.stopping import stopping
from robustjax.types import Batch, Loss

MODELS: dict[str, Callable[[tuple[int, ...]], CVAE]] = {
    "dense": lambda shape: cvae_small.dense(shape=shape),
    "mnist_dense": lambda shape: cvae_small.mnist_dense(),
    "mnist_conv": lambda shape: cvae_small.mnist_conv(),
    "stn": lambda shape: cvae_stn.mnist_stn(shape=shape),
    "rectangle": lambda shape: cvae_rectangle.rectangle(shape=shape),
}
FAMILIES: dict[str, Callable[[], pairs.Pairs]] = {
    "linf": lambda: pairs.linf(0.3),
    "rts": pairs.rotated_shifted_scaled,
    "lighting": pairs.lighting,
    "corrupted": pairs.corrupted,
    "corrupted_twice": pairs.corrupted_twice,
    "corrupted_or_clean": lambda: pairs.corrupted_twice(originals=True),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Train an autoencoder of perturbations."""

    dataset: str = "digits"
    folder: str | None = None  # of pairs of pictures, instead of --dataset and --pairs
    pairs: str = "lighting"  # of linf, rts, lighting, corrupted, corrupted_twice, corrupted_or_clean
    pool: int | None = None  # so many fixed perturbations per image; fresh ones without end by default
    augment: bool = False  # crop and flip, both views alike
    model: str = "dense"  # of dense, mnist_dense, mnist_conv, stn, rectangle
    likelihood: Likelihood = "gaussian"
    epochs: int = 200
    batch_size: int = 128
    rate_at: tuple[float, ...] = (0, 40, 200)  # epochs
    rate: tuple[float, ...] = (0, 2e-3, 0)  # of Adam, linear in between
    beta_at: tuple[float, ...] = (0, 80)
    beta: tuple[float, ...] = (0, 0.05)
    passes: int = 5  # over the validation images, with other perturbations, to choose the radius
    steps: int = 50  # of the searches that judge
    images: int | None = 1000  # validation and test images that are measured, None for all
    save_every: int = 1000  # updates
    seed: int = 1
    out: str = "runs/cvae"
    data_dir: str | None = None

    def check(self) -> None:
        """Refuse what cannot be meant, before any work."""
        for name, known in (("pairs", FAMILIES), ("model", MODELS)):
            if getattr(self, name) not in known:
                raise ValueError(f"--{name} is {getattr(self, name)!r}, must be one of {', '.join(known)}")
        for name in ("epochs", "batch_size", "passes", "steps", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} is {getattr(self, name)}, must be at least 1")
        interpolated(self.rate_at, self.rate)
        interpolated(self.beta_at, self.beta)


_MNIST: dict[str, Any] = {"dataset": "mnist", "likelihood": "bernoulli", "epochs": 20}
_LINF: dict[str, Any] = _MNIST | {"pairs": "linf", "beta_at": (0, 5, 20), "beta": (0, 1e-3, 1e-2)}
_RTS: dict[str, Any] = _MNIST | {
    "pairs": "rts", "model": "stn", "epochs": 100, "rate_at": (0, 40, 100), "rate": (0, 8e-4, 0),
    "beta_at": (0, 10, 50), "beta": (0, 0.01, 1),
}  # fmt: skip
_CIFAR: dict[str, Any] = {
    "dataset": "cifar10", "model": "rectangle", "augment": True, "epochs": 1000, "rate_at": (0, 400, 1000),
    "rate": (0, 1e-3, 0), "beta": (0, 0.01),
}  # fmt: skip
PRESETS = {
    "digits": Config(),
    "mnist_dense_linf": Config(
        **_LINF, model="mnist_dense", rate_at=(0, 10, 15, 20), rate=(0, 1e-3, 5e-4, 1e-4)
    ),
    "mnist_conv_linf": Config(
        **_LINF, model="mnist_conv", rate_at=(0, 10, 15, 20), rate=(1e-3, 1e-3, 5e-4, 1e-4)
    ),
    "mnist_stn_rts": Config(**_RTS),
    "mnist_stn_rts_limited_1": Config(**_RTS, pool=1),
    "mnist_stn_rts_limited_5": Config(**_RTS, pool=5),
    "cifar10": Config(**_CIFAR, pairs="corrupted", beta_at=(0, 40)),
    "cifar10_nooriginal": Config(**_CIFAR, pairs="corrupted_twice", beta_at=(0, 400)),
    "cifar10_withoriginal": Config(**_CIFAR, pairs="corrupted_or_clean", beta_at=(0, 400)),
    "smoke": Config(
        epochs=1, rate_at=(0, 1), rate=(1e-3, 1e-3), beta_at=(0, 1), steps=2, passes=1, images=32
    ),
}
MAY_DIFFER = ("out", "data_dir", "save_every", "images", "passes", "steps")


def main(cfg: Config) -> int:
    """Train, choose the radius, measure, report."""
    train, valid, test = splits(cfg)
    valid, test = common.first(valid, cfg.images), common.first(test, cfg.images)
    fresh = pairs.side_by_side() if cfg.folder else FAMILIES[cfg.pairs]()
    pool = fresh if cfg.pool is None else pairs.limited(fresh, times=cfg.pool)
    learnt = pairs.jointly(pool, crop(4), flip()) if cfg.augment else pool
    sample = fresh(jax.random.key(0), jnp.asarray(np.asarray(test.image[:1]), jnp.float32) / 255)
    model = MODELS[cfg.model](sample.image.shape[1:])
    per_epoch = max(1, len(train.label) // cfg.batch_size)
    total = cfg.epochs * per_epoch
    rate, beta = interpolated(cfg.rate_at, cfg.rate), interpolated(cfg.beta_at, cfg.beta)
    tx = optimizers.adam(lambda t: rate((t + 1) / per_epoch))

    def loss_at(t: jax.Array) -> Loss:
        return on_pairs(elbo(model, beta=beta(t // per_epoch), likelihood=cfg.likelihood), learnt)

    update = training.scheduled(loss_at, tx)
    with (
        runtime.Run(cfg.out, cfg, may_differ=MAY_DIFFER) as run,
        runtime.Checkpoints(run.folder / "checkpoints", keep=1) as saved,
        stopping() as stop,
    ):
        state: Any = training.start(jax.random.key(cfg.seed), model, tx)  # pyright: ignore[reportArgumentType]
        state, begin = saved.restore(state) or (state, 0)
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
    found, measured = judged(cfg, model, state, pool, fresh, valid, test)
    page = {"radius": found.largest, "encodings": found._asdict()} | {
        name: float(getattr(measured, name).mean()) for name in Quality._fields
    }
    runtime.write_whole(run.folder / "quality.json", json.dumps(page, indent=2) + "\n")
    print("\n".join(f"{name:15s} {value:.5g}" for name, value in page.items() if isinstance(value, float)))
    place = report(cfg, model, state, fresh, test, found, measured).write(run.folder / "report.html")
    runtime.say(f"report: {place}")
    return 0


def splits(cfg: Config) -> list[data.Split]:
    """Load training, validation and test images, or pairs side by side from a folder."""
    parts = ("train", "validation", "test")
    if cfg.folder is None:
        return [data.load(cfg.dataset, part, data_dir=cfg.data_dir) for part in parts]
    found = paired(cfg.folder)
    if len(found.names) < 10:
        raise ValueError(f"--folder {cfg.folder} holds {len(found.names)} images, must hold at least 10")
    rest = found.number % 10
    chosen = {"train": rest < 8, "validation": rest == 8, "test": rest == 9}
    return [
        data.of_arrays(
            found.image[rows], found.number[rows], name=cfg.folder, split=part, classes=found.names
        )
        for part, rows in chosen.items()
    ]


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
    x = jnp.asarray(np.asarray(test.image[:5]), jnp.float32) / 255
    views = fresh(jax.random.key(3), x)
    space = learned(model, state.params, state.state, radius=radius)
    encoding = encoder(model, state.params, state.state)(*views).mean
    back = space.decode(jax.random.split(jax.random.key(0), 5), space.prepare(views.image), encoding)
    draws = [perturbed(space)(jax.random.key(i), views.image) for i in range(5)]
    columns = [np.asarray(a) for a in (views.image, views.perturbed, back, *draws)]
    return [[column[i] for column in columns] for i in range(5)]


if __name__ == "__main__":
    common.script(main, PRESETS, __doc__)
