"""Classifiers and segmenters trained on a learned set: their settings, their losses, and opening a trained one."""

import dataclasses
import json
import pathlib
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import common
import cvaes
import jax
import jax.numpy as jnp

from robustjax import data, runtime
from robustjax.attacks import compose, objectives
from robustjax.attacks.pgd import pgd
from robustjax.data.augment import chain, crop, flip
from robustjax.losses.harder import harder
from robustjax.losses.segmentation import harder_segmentation, segmentation
from robustjax.losses.stability import augmented, stability
from robustjax.losses.standard import standard
from robustjax.models import unet
from robustjax.models.cvae import CVAE
from robustjax.perturbations import relit, sets
from robustjax.perturbations.learned import learned, noisy, perturbed
from robustjax.types import Batch, Images, Loss, Model, Params, State

Method = Literal["plain", "real", "augmented", "adversarial", "stability", "smoothed"]
LARGEST = 3.1986  # the largest certificate, in deviations of the noise, of 10,000 copies at alpha = 0.001


@dataclasses.dataclass(frozen=True)
class Config:
    """Train on a learned set."""

    set: str = "runs/cvae"  # a folder of train_cvae.py
    model: str = "mlp"  # a classifier by name; of scenes with a class per pixel unet or unet_small
    method: Method = "adversarial"  # real: on perturbations as the set was learned from
    radius: float | None = None  # of the ball; the largest of the encodings' lengths by default
    sigma: float | None = (
        None  # of the noise in latents of `smoothed`; so that no certificate exceeds the radius
    )
    weight: float = 1.0  # of the divergence in `stability`
    attack_steps: int = 7  # of training, each a fifth of the radius long
    first_light: bool = False  # plain training of scenes under many lights sees the first only, not any
    pad: int | None = None  # crop out of so wide a border, and flip; None for neither
    epochs: int = 80
    batch_size: int = 128
    optimizer: common.Optimizer = common.Optimizer(name="adam", rate=2e-3, weight_decay=0.0)
    steps: int = 50  # of the attack that judges, each a twentieth of the radius long
    restarts: int = 5
    queries: int = 500  # of the attack without gradients, 0 for none
    observed: int = 50  # real perturbations per image, the worst of which is told
    images: int | None = 1000  # test images that are judged, None for all
    save_every: int = 1000  # updates
    seed: int = 1
    out: str = "runs/learned"
    data_dir: str | None = None

    def check(self) -> None:
        """Refuse what cannot be meant, before any work."""
        if self.method not in get_args(Method):
            raise ValueError(f"--method is {self.method!r}, must be one of {', '.join(get_args(Method))}")
        for name in ("attack_steps", "epochs", "batch_size", "steps", "restarts", "observed", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} is {getattr(self, name)}, must be at least 1")
        for name in ("radius", "sigma"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ValueError(f"--{name} is {getattr(self, name):g}, must be above 0")


_WIDE: dict[str, Any] = {
    "set": "runs/cvae_cifar10", "model": "wideresnet28_10", "epochs": 100, "pad": 4, "images": None, "radius": 28.0,
    "optimizer": common.Optimizer(rate=0.2),
}  # fmt: skip
_UNET: dict[str, Any] = {
    "set": "runs/cvae_mip5", "model": "unet", "epochs": 400, "pad": 10, "images": None, "radius": 17.0,
    "optimizer": common.Optimizer(name="adam", rate=0.01, weight_decay=0.0), "queries": 0,
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


def pixelwise(it: cvaes.Learned) -> bool:
    """Say whether every pixel has a class: scenes under many lights."""
    return it.config.pairs == "relit"


def network(cfg: Config, it: cvaes.Learned) -> Model:
    """Build the classifier or segmenter for the images of a set."""
    classes = len(it.splits[0].info.classes)
    if pixelwise(it) != cfg.model.startswith("unet"):
        raise ValueError(
            f"--model is {cfg.model!r}, must be unet or unet_small for scenes, and only for them"
        )
    if pixelwise(it):
        widths = (64, 128, 256, 512, 512) if cfg.model == "unet" else (16, 32, 32)
        return unet.segmenter(classes=classes, shape=it.model.shape, widths=widths)
    if it.config.folder:
        raise ValueError(f"--set {cfg.set} was learned from a folder, whose pictures have no classes")
    return common.classifier(cfg.model, dataset=it.config.dataset, classes=classes, shape=it.model.shape)


class Looks(NamedTuple):
    """How images of the data set come to a network: (key, images) -> images."""

    bare: Callable[
        [jax.Array, Images], Images
    ]  # as they are, padded as the set's are; scenes under any light
    first: Callable[[jax.Array, Images], Images]  # the same, scenes under their first light
    real: Callable[[jax.Array, Images], Images]  # perturbed as the set was learned from


def looks(it: cvaes.Learned) -> Looks:
    """Build the looks of a set's images."""
    fresh = cvaes.drawn(it.config).fresh
    if pixelwise(it):
        return Looks(relit.any_light(), lambda key, x: relit.under(x, 0), relit.any_light())
    # Both views of some pairs are perturbed; their images are taken as the data set has them.
    padded = it.config.pairs in ("rts", "warps")
    bare = (lambda key, x: fresh(key, x).image) if padded else (lambda key, x: x)
    return Looks(bare, bare, lambda key, x: fresh(key, x).perturbed)


def sigma_of(cfg: Config, radius: float) -> float:
    """Choose the noise: as asked, or so that the largest certificate of 10,000 copies is the radius."""
    return cfg.sigma or radius / LARGEST


def loss_of(cfg: Config, it: cvaes.Learned, model: Model, radius: float) -> Loss:
    """Build a loss over (batch, parameters and state of the autoencoder), which are arguments and not constants."""
    seen, pixels = looks(it), pixelwise(it)
    view = {"real": seen.real, "plain": seen.first if cfg.first_light else seen.bare}.get(
        cfg.method, seen.bare
    )

    def loss(params: Params, state: State, batch: Any, key: jax.Array):
        (image, label), trained = batch
        draw, move, inner = jax.random.split(key, 3)
        image = view(draw, image)
        if cfg.pad is not None and pixels:
            image, label = relit.with_labels(crop(cfg.pad), flip())(move, relit.Labelled(image, label))
        elif cfg.pad is not None:
            image = chain(crop(cfg.pad), flip())(move, image)
        own = on_set(cfg, it.model, model, trained, radius, pixels)
        return own(params, state, Batch(image, label), inner)

    return loss


def on_set(
    cfg: Config, autoencoder: CVAE, model: Model, trained: tuple[Any, Any], radius: float, pixels: bool
) -> Loss:
    """Build the loss of a method over a `Batch`."""
    space = learned(autoencoder, *trained, radius=radius)
    climb = pgd(space.threat, steps=cfg.attack_steps, step_size=radius / 5)
    noise = noisy(space, sigma_of(cfg, radius))
    if pixels:
        if cfg.method == "stability":
            raise ValueError("--method stability is for classifiers, must be another one for scenes")
        return {
            "plain": lambda: segmentation(model),
            "real": lambda: segmentation(model),
            "augmented": lambda: segmentation(model, perturb=perturbed(space)),
            "adversarial": lambda: harder_segmentation(model, sets.ascent_through(space, climb)),
            "smoothed": lambda: segmentation(model, perturb=noise),
        }[cfg.method]()
    return {
        "plain": lambda: standard(model),
        "real": lambda: standard(model),
        "augmented": lambda: augmented(model, perturbed(space)),
        "adversarial": lambda: harder(
            model, sets.through(space, compose.against(climb, objectives.cross_entropy))
        ),
        "stability": lambda: stability(model, perturbed(space), weight=cfg.weight),
        "smoothed": lambda: augmented(model, noise),
    }[cfg.method]()


class Trained(NamedTuple):
    """A network out of a run folder of train_learned.py, with its set."""

    config: Config
    set: cvaes.Learned
    model: Model
    params: Params
    state: State
    step: int
    test: data.Split


def opened(folder: str, *, data_dir: str | None = None) -> Trained:
    """Open a run folder of train_learned.py at its newest checkpoint.

    Raises:
      ValueError: if the folder holds no such run or no whole checkpoint.
    """
    path = pathlib.Path(folder)
    try:
        made = json.loads((path / "config.json").read_text())["config"]
        if not {"set", "method", "attack_steps"} <= made.keys():
            raise ValueError("its config is another script's")
        made["optimizer"] = common.Optimizer(**made["optimizer"])
        cfg = Config(**made)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} holds no run of train_learned.py ({type(error).__name__}: {error})"
        ) from None
    it = cvaes.opened(cfg.set, data_dir=data_dir or cfg.data_dir)
    model = network(cfg, it)
    params, state = jax.eval_shape(model.init, jax.random.key(0))
    with runtime.Checkpoints(path / "checkpoints", read_only=True) as saved:
        found = saved.restore({"params": params, "state": state}, others=True)
    if found is None:
        raise ValueError(f"{path / 'checkpoints'} has no whole checkpoint yet")
    tree: Any = found[0]
    return Trained(cfg, it, model, tree["params"], tree["state"], found[1], it.splits[2])


def radius_of(cfg: Config, it: cvaes.Learned) -> float:
    """Say which ball is meant: the radius asked for, or the set's own."""
    return it.radius if cfg.radius is None else cfg.radius


def bare_images(it: cvaes.Learned, split: data.Split) -> jax.Array:
    """Turn a split's images into what a network sees when nothing perturbs them, scenes under their first light."""
    return jnp.asarray(looks(it).first(jax.random.key(0), cvaes.as_images(split)))
