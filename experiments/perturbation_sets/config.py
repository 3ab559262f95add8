"""The settings of perturbation_sets.train: networks and pairs by name, and the presets."""

import dataclasses
from collections.abc import Callable
from typing import Any

from experiments.shared.settings import Cluster
from robustjax.losses.elbo import interpolated
from robustjax.models import cvae_rectangle, cvae_small, cvae_stn, unet
from robustjax.models.cvae import CVAE, Likelihood
from robustjax.perturbations import pairs
from robustjax.perturbations.relit import relit

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
    "relit": relit,
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
    batch_size: int = 128  # over all devices
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
    distributed: bool = False
    cluster: Cluster = Cluster()

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


def _scenes(level: int, **settings: Any) -> Config:
    """Give the settings of the Multi-Illumination photographs at a level, begun from the next smaller one."""
    begin = None if level == 5 else f"runs/cvae_mip{level + 1}"
    dataset, batch_size = f"multi_illumination/mip{level}", {5: 64, 4: 32, 3: 16}[level]
    # The published weight decay joins a sum over the batch, ours a mean.
    shared: dict[str, Any] = {"dataset": dataset, "batch_size": batch_size, "weight_decay": 5e-7 / batch_size}
    shared |= {"pad": {5: 10, 4: 20, 3: 40}[level], "begin": begin, "out": f"runs/cvae_mip{level}"}
    return Config(pairs="relit", model="scenes", images=None, passes=2, **shared, **settings)


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
    "mip5": _scenes(
        5, epochs=1000, rate_at=(0, 400, 1000), rate=(1e-4, 1e-3, 0), beta_at=(0, 400), beta=(0, 1)
    ),
    "mip4": _scenes(4, epochs=100, rate_at=(0, 40, 100), rate=(2.5e-5, 2.5e-4, 0), beta_at=(0,), beta=(1,)),
    "mip3": _scenes(3, epochs=25, rate_at=(0, 10, 25), rate=(2e-6, 2e-5, 0), beta_at=(0,), beta=(10,)),
    "smoke": Config(
        epochs=1, share=0.2, rate_at=(0, 1), rate=(1e-3, 1e-3), beta_at=(0, 1), steps=2, passes=1, images=16
    ),
}
