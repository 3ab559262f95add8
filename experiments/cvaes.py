"""What the scripts on learned perturbation sets share: the settings of an autoencoder, and opening a trained one."""

import dataclasses
import json
import math
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from robustjax import data, runtime, training
from robustjax.data import lit_scenes, multi_illumination
from robustjax.data.augment import crop, flip
from robustjax.data.paired import paired
from robustjax.losses.elbo import Likelihood, interpolated
from robustjax.models import cvae_rectangle, cvae_small, cvae_stn, unet
from robustjax.models.cvae import CVAE
from robustjax.perturbations import pairs, relit
from robustjax.types import Params, State

MODELS: dict[str, Callable[[tuple[int, ...]], CVAE]] = {
    "dense": lambda shape: cvae_small.dense(shape=shape),
    "mnist_dense": lambda shape: cvae_small.mnist_dense(),
    "mnist_conv": lambda shape: cvae_small.mnist_conv(),
    "stn": lambda shape: cvae_stn.mnist_stn(shape=shape),
    "rectangle": lambda shape: cvae_rectangle.rectangle(shape=shape),
    "scenes": lambda shape: unet.scenes(shape=shape),
    "scenes_small": lambda shape: unet.scenes(
        shape=shape, widths=(16, 32, 32), latents=(16, 8, 8), grids=((8, 12), (8, 12), (4, 6))
    ),
}
FAMILIES: dict[str, Callable[[], pairs.Pairs]] = {
    "linf": lambda: pairs.linf(0.3),
    "rts": pairs.rotated_shifted_scaled,
    "warps": lambda: pairs.warped((20.0, 0.7, 0.7, 0.1, 10.0), pad=1),
    "lighting": pairs.lighting,
    "relit": relit.relit,
    "corrupted": pairs.corrupted,
    "corrupted_twice": pairs.corrupted_twice,
    "corrupted_or_clean": lambda: pairs.corrupted_twice(originals=True),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Train an autoencoder of perturbations."""

    dataset: str = "digits"
    folder: str | None = None  # of pairs of pictures, instead of --dataset and --pairs
    # of linf, rts, warps, lighting, corrupted, corrupted_twice, corrupted_or_clean, and of scenes relit
    pairs: str = "lighting"
    pool: int | None = None  # so many fixed perturbations per image; fresh ones without end by default
    pad: int | None = None  # crop out of so wide a border, and flip, both views alike; None for neither
    model: str = "dense"  # of dense, mnist_dense, mnist_conv, stn, rectangle, scenes, scenes_small
    likelihood: Likelihood = "gaussian"
    epochs: int = 200
    share: float = 1.0  # of the run that is done, all schedules shrunk with it
    batch_size: int = 128
    rate_at: tuple[float, ...] = (0, 40, 200)  # epochs
    rate: tuple[float, ...] = (0, 2e-3, 0)  # of Adam, linear in between
    beta_at: tuple[float, ...] = (0, 80)
    beta: tuple[float, ...] = (0, 0.05)
    weight_decay: float = 0.0  # times a weight, added to its gradient of the mean over the batch
    begin: str | None = None  # a run folder whose parameters to begin with, such as one of smaller pictures
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
        if not 0 < self.share <= 1:
            raise ValueError(f"--share is {self.share:g}, must be in (0, 1]")
        interpolated(self.rate_at, self.rate)
        interpolated(self.beta_at, self.beta)


_MNIST: dict[str, Any] = {"dataset": "mnist", "likelihood": "bernoulli", "epochs": 20}
_LINF: dict[str, Any] = _MNIST | {"pairs": "linf", "beta_at": (0, 5, 20), "beta": (0, 1e-3, 1e-2)}
_RTS: dict[str, Any] = _MNIST | {
    "pairs": "rts", "model": "stn", "epochs": 100, "rate_at": (0, 40, 100), "rate": (0, 8e-4, 0),
    "beta_at": (0, 10, 50), "beta": (0, 0.01, 1),
}  # fmt: skip
_CIFAR: dict[str, Any] = {
    "dataset": "cifar10", "model": "rectangle", "pad": 4, "epochs": 1000, "rate_at": (0, 400, 1000),
    "rate": (0, 1e-3, 0), "beta": (0, 0.01),
}  # fmt: skip
_MI: dict[str, Any] = {"pairs": "relit", "model": "scenes", "images": None, "passes": 2}
PRESETS = {
    "digits": Config(),
    "lit_scenes": Config(
        dataset="lit_scenes",
        pairs="relit",
        model="scenes_small",
        pad=2,
        epochs=120,
        batch_size=32,
        rate_at=(0, 40, 120),
        beta_at=(0, 40),
        beta=(0, 0.1),
        images=40,
        out="runs/cvae_lit",
    ),
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
    # The published weight decay joins a sum over the batch, ours a mean.
    "mip5": Config(
        **_MI,
        dataset="multi_illumination/mip5",
        pad=10,
        epochs=1000,
        batch_size=64,
        rate_at=(0, 400, 1000),
        rate=(1e-4, 1e-3, 0),
        beta_at=(0, 400),
        beta=(0, 1),
        weight_decay=5e-7 / 64,
        out="runs/cvae_mip5",
    ),
    "mip4": Config(
        **_MI,
        dataset="multi_illumination/mip4",
        pad=20,
        epochs=100,
        batch_size=32,
        rate_at=(0, 40, 100),
        rate=(2.5e-5, 2.5e-4, 0),
        beta_at=(0,),
        beta=(1,),
        weight_decay=5e-7 / 32,
        begin="runs/cvae_mip5",
        out="runs/cvae_mip4",
    ),
    "mip3": Config(
        **_MI,
        dataset="multi_illumination/mip3",
        pad=40,
        epochs=25,
        batch_size=16,
        rate_at=(0, 10, 25),
        rate=(2e-6, 2e-5, 0),
        beta_at=(0,),
        beta=(10,),
        weight_decay=5e-7 / 16,
        begin="runs/cvae_mip4",
        out="runs/cvae_mip3",
    ),
    "smoke": Config(
        epochs=1, share=0.2, rate_at=(0, 1), rate=(1e-3, 1e-3), beta_at=(0, 1), steps=2, passes=1, images=16
    ),
}


def splits(cfg: Config) -> list[data.Split]:
    """Load training, validation and test images, or pairs side by side from a folder."""
    parts = ("train", "validation", "test")
    scenes = cfg.folder is None and cfg.dataset.startswith(("lit_scenes", "multi_illumination/mip"))
    if scenes != (cfg.folder is None and cfg.pairs == "relit"):
        raise ValueError(
            f"--pairs is {cfg.pairs!r} with --dataset {cfg.dataset}, must be relit for scenes under many lights "
            "(lit_scenes, multi_illumination/mip5, ...), and only for them"
        )
    if scenes and cfg.dataset == "lit_scenes":
        return [lit_scenes.split(part) for part in parts]
    if scenes:
        level = cfg.dataset.partition("/mip")[2]
        if not level.isdecimal():
            raise ValueError(
                f"--dataset is {cfg.dataset!r}, must end in a level, as in multi_illumination/mip5"
            )
        return [multi_illumination.load(int(level), part, data_dir=cfg.data_dir) for part in parts]
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


class Drawn(NamedTuple):
    """How pairs are drawn: without end, from the pool that training has, and as training sees them."""

    fresh: pairs.Pairs
    pool: pairs.Pairs
    learnt: pairs.Pairs


def drawn(cfg: Config) -> Drawn:
    """Build the pairs that a config names."""
    fresh = pairs.side_by_side() if cfg.folder else FAMILIES[cfg.pairs]()
    pool = fresh if cfg.pool is None else pairs.limited(fresh, times=cfg.pool)
    return Drawn(fresh, pool, pool if cfg.pad is None else pairs.jointly(pool, crop(cfg.pad), flip()))


def built(cfg: Config, split: data.Split) -> CVAE:
    """Build the autoencoder for the pairs that a config draws of some images."""
    x = jax.ShapeDtypeStruct((1, *split.image.shape[1:]), jnp.float32)
    views = jax.eval_shape(drawn(cfg).fresh, jax.random.key(0), x)
    return MODELS[cfg.model](views.image.shape[1:])


class Learned(NamedTuple):
    """A trained autoencoder out of a run folder; the radius is None in a run that has not been measured yet."""

    config: Config
    model: CVAE
    params: Params
    state: State
    step: int
    radii: dict[str, float]  # quartiles of the encodings' lengths, their largest, ...
    splits: list[data.Split]

    @property
    def radius(self) -> float:
        """Give the radius of the set: the largest encoding of validation pairs."""
        if "largest" not in self.radii:
            raise ValueError(
                "the run of train_cvae.py has no quality.json yet; let it end, or give the radius"
            )
        return self.radii["largest"]


def opened(folder: str, *, data_dir: str | None = None) -> Learned:
    """Open a run folder of train_cvae.py at its newest checkpoint.

    Raises:
      ValueError: if the folder holds no such run or no whole checkpoint.
    """
    path = pathlib.Path(folder)
    try:
        made = json.loads((path / "config.json").read_text())["config"]
        known = {f.name for f in dataclasses.fields(Config)}
        if not {"pairs", "model", "beta_at"} <= made.keys() <= known:
            raise ValueError("its config is another script's")
        settings: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in made.items()}
        cfg = dataclasses.replace(Config(**settings), data_dir=data_dir or made["data_dir"])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} holds no run of train_cvae.py ({type(error).__name__}: {error})") from None
    parts = splits(cfg)
    model = built(cfg, parts[0])
    params, state, step = weights(folder, model)
    measured = path / "quality.json"
    radii = json.loads(measured.read_text())["encodings"] if measured.exists() else {}
    return Learned(cfg, model, params, state, step, radii, parts)


def weights(folder: str, model: CVAE) -> tuple[Any, Any, int]:
    """Read parameters and state out of a run folder: (params, state, step).

    Raises:
      ValueError: if there is no whole checkpoint, or it is of another network.
    """
    params, state = jax.eval_shape(model.init, jax.random.key(0))
    place = pathlib.Path(folder) / "checkpoints"
    with runtime.Checkpoints(place, read_only=True) as saved:
        found = saved.restore({"params": params, "state": state}, others=True)
    if found is None:
        raise ValueError(f"{place} has no whole checkpoint yet")
    tree: Any = found[0]
    return tree["params"], tree["state"], found[1]


def begun(cfg: Config, model: CVAE, state: training.TrainState) -> training.TrainState:
    """Put the parameters of another run into a fresh state, if the config names one."""
    if cfg.begin is None:
        return state
    params, statistics, _ = weights(cfg.begin, model)
    return state._replace(params=params, state=statistics)


def as_images(split: data.Split, rows: Any = slice(None)) -> jax.Array:
    """Turn some images of a split into float32 in [0, 1]."""
    return jnp.asarray(np.asarray(split.image[rows]), jnp.float32) / 255


def updates(cfg: Config, split: data.Split) -> tuple[int, float]:
    """Count the updates of a run, and those that stand for one epoch of its schedules."""
    epoch = cfg.share * max(1, len(split.label) // cfg.batch_size)
    return max(1, math.ceil(cfg.epochs * epoch - 1e-6)), epoch
