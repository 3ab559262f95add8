"""Classifiers and segmenters trained on a learned set: their settings, and opening a trained one."""

import dataclasses
from typing import Any, Literal, NamedTuple, get_args

from experiments.perturbation_sets import autoencoders
from experiments.shared import run_folders
from experiments.shared.settings import Cluster, Optimizer
from robustjax import data
from robustjax.catalog import models as model_names
from robustjax.models import unet
from robustjax.types import Model, Params, State

Method = Literal["plain", "real", "augmented", "adversarial", "stability", "smoothed", "smoothadv", "macer"]
PER_IMAGE = ("stability", "smoothadv", "macer")  # methods for one class per image, not per pixel
LARGEST = 3.1986  # the largest certificate, in deviations of the noise, of 10,000 copies at alpha = 0.001


@dataclasses.dataclass(frozen=True)
class Config:
    """Train on a learned set."""

    set: str = "runs/cvae"  # a folder of perturbation_sets.train
    model: str = "mlp"  # a classifier by name; of scenes with a class per pixel unet or unet_small
    method: Method = "adversarial"  # real: on perturbations as the set was learned from
    radius: float | None = None  # of the ball; the largest of the encodings' lengths by default
    # of the noise in latents of smoothed, smoothadv and macer; by default so that no certificate exceeds the radius
    sigma: float | None = None
    copies: int | None = None  # noisy ones per image: 2 in smoothadv and 16 in macer by default
    # of the divergence in stability, 1 by default; of the radius in macer, 3 / sigma as published
    weight: float | None = None
    reach: float = 1.0  # of the attack in smoothadv, as a share of the radius
    attack_steps: int = 7  # of training, each a fifth of the radius long
    first_light: bool = False  # plain training of scenes under many lights sees the first only, not any
    pad: int | None = None  # crop out of so wide a border, and flip; None for neither
    epochs: int = 80
    batch_size: int = 128  # over all devices
    optimizer: Optimizer = Optimizer(name="adam", rate=2e-3, weight_decay=0.0)
    steps: int = 50  # of the attack that judges, each a twentieth of the radius long
    restarts: int = 5
    queries: int = 500  # of the attack without gradients, 0 for none
    observed: int = 50  # real perturbations per image, the worst of which is told
    images: int | None = 1000  # test images that are judged, None for all
    save_every: int = 1000  # updates
    seed: int = 1
    out: str = "runs/learned"
    data_dir: str | None = None
    distributed: bool = False
    cluster: Cluster = Cluster()

    def check(self) -> None:
        """Refuse what cannot be meant, before any work."""
        if self.method not in get_args(Method):
            raise ValueError(f"--method is {self.method!r}, must be one of {', '.join(get_args(Method))}")
        for name in ("attack_steps", "epochs", "batch_size", "steps", "restarts", "observed", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} is {getattr(self, name)}, must be at least 1")
        for name in ("radius", "sigma", "copies", "weight", "reach"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ValueError(f"--{name} is {getattr(self, name):g}, must be above 0")


_WIDE: dict[str, Any] = {
    "set": "runs/cvae_cifar10", "model": "wideresnet28_10", "epochs": 100, "pad": 4, "images": None, "radius": 28.0,
    "optimizer": Optimizer(rate=0.2),
}  # fmt: skip
_UNET: dict[str, Any] = {
    "set": "runs/cvae_mip5", "model": "unet", "epochs": 400, "pad": 10, "images": None, "radius": 17.0,
    "optimizer": Optimizer(name="adam", rate=0.01, weight_decay=0.0), "queries": 0,
}  # fmt: skip
_SCENES: dict[str, Any] = {
    "set": "runs/cvae_lit", "model": "unet_small", "epochs": 60, "batch_size": 32, "restarts": 2, "queries": 0,
}  # fmt: skip
PRESETS = {
    "digits": Config(),
    "scenes": Config(**_SCENES),
    "cifar10_sample_aug": Config(**{**_WIDE, "set": "runs/cvae_cifar10_nooriginal"}, method="real"),
    "cifar10_cvae_aug": Config(**_WIDE, method="augmented"),
    "cifar10_cvae_attack": Config(**_WIDE),
    "cifar10_cvae_smoothing_084": Config(**_WIDE, method="smoothed", sigma=0.84),
    "cifar10_cvae_smoothing_122": Config(**_WIDE, method="smoothed", sigma=1.22),
    "cifar10_cvae_smoothing_319": Config(**_WIDE, method="smoothed", sigma=3.19),
    "mi_sample_first": Config(**_UNET, method="plain", first_light=True),
    "mi_sample_aug": Config(**_UNET, method="plain"),
    "mi_cvae_aug": Config(**_UNET, method="augmented"),
    "mi_cvae_attack": Config(**_UNET),
    "mi_cvae_smoothing_690": Config(**_UNET, method="smoothed", sigma=6.9),
    "smoke": Config(
        epochs=1,
        batch_size=512,
        attack_steps=1,
        steps=1,
        restarts=1,
        queries=0,
        observed=2,
        images=8,
        radius=1.0,
    ),
}


def pixelwise(it: autoencoders.Learned) -> bool:
    """Say whether every pixel has a class: scenes under many lights."""
    return it.config.pairs == "relit"


def network(cfg: Config, it: autoencoders.Learned) -> Model:
    """Build the classifier or segmenter for the images of a set."""
    classes = len(it.splits[0].info.classes)
    if pixelwise(it) != cfg.model.startswith("unet"):
        raise ValueError(
            f"--model is {cfg.model!r}, must be unet or unet_small for scenes, and only for them"
        )
    if pixelwise(it) and cfg.method in PER_IMAGE:
        raise ValueError(f"--method {cfg.method} is for classifiers, must be another one for scenes")
    if pixelwise(it):
        widths = (64, 128, 256, 512, 512) if cfg.model == "unet" else (16, 32, 32)
        return unet.segmenter(classes=classes, shape=it.model.shape, widths=widths)
    if it.config.folder:
        raise ValueError(f"--set {cfg.set} was learned from a folder, whose pictures have no classes")
    return model_names.classifier(cfg.model, dataset=it.config.dataset, classes=classes, shape=it.model.shape)


class Trained(NamedTuple):
    """A network out of a run folder of perturbation_sets.train_classifier, with its set."""

    config: Config
    set: autoencoders.Learned
    model: Model
    params: Params
    state: State
    step: int
    test: data.Split


def opened(folder: str, *, data_dir: str | None = None) -> Trained:
    """Open a run folder of perturbation_sets.train_classifier at its newest checkpoint.

    Raises:
      ValueError: if the folder holds no such run or no whole checkpoint.
    """
    cfg = run_folders.settings(
        folder, "perturbation_sets.train_classifier", needed={"set", "method", "attack_steps"}, build=_read
    )
    it = autoencoders.opened(cfg.set, data_dir=data_dir or cfg.data_dir)
    model = network(cfg, it)
    return Trained(cfg, it, model, *run_folders.weights(folder, model.init), it.splits[2])


def _read(made: dict[str, Any]) -> Config:
    found: Any = made | {"optimizer": Optimizer(**made["optimizer"])}
    return Config(**found)


def radius_of(cfg: Config, it: autoencoders.Learned) -> float:
    """Say which ball is meant: the radius asked for, or the set's own."""
    return it.radius if cfg.radius is None else cfg.radius


def sigma_of(cfg: Config, radius: float) -> float:
    """Choose the noise: as asked, or so that the largest certificate of 10,000 copies is the radius."""
    return cfg.sigma or radius / LARGEST
