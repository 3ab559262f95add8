"""Train a translation system in a run folder, and read it back: what ood_to_id.train and compare share."""

import json
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.ood_to_id import images, networks
from experiments.ood_to_id.config import TRAIN_MAY_DIFFER, TrainConfig
from experiments.ood_to_id.images import Sets
from experiments.shared.classifiers import open_classifier
from experiments.shared.planned import training_images
from robustjax import checks, logit, runtime
from robustjax.attacks import objectives
from robustjax.attacks.compose import against
from robustjax.attacks.pgd import pgd
from robustjax.catalog.translators import TRANSLATORS, translator
from robustjax.data import subsets
from robustjax.data.subsets import batch_subset
from robustjax.models import weights
from robustjax.ood.translate import Translate
from robustjax.perturbations import tones
from robustjax.perturbations.pairs import ImagePair
from robustjax.runtime import strict_json
from robustjax.runtime.stopping import Stop, stopping
from robustjax.staged_training import Stage
from robustjax.threats import Threat
from robustjax.types import Batch, Model, Network


class Stopped(Exception):
    """The run was asked to stop and has saved what it had."""

    def __init__(self, exit_code: int) -> None:
        super().__init__()
        self.exit_code = exit_code


class Trained(NamedTuple):
    """What a training ended with.

    Attributes:
      folder: of the run.
      rows: accuracies on clean, attacked and shifted test images.
      pictures: by name, the first images clean, perturbed and translated.
      until: the time of ddpm that was chosen, else None.
      images: which test images, in words.
    """

    folder: pathlib.Path
    rows: list[dict[str, Any]]
    pictures: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]
    until: float | None
    images: str


class System(NamedTuple):
    """A trained translation system.

    Attributes:
      classifier, encoder: the networks.
      translate: (key, images) -> images, as the defence uses it.
      settings: that it was trained with.
    """

    classifier: Network
    encoder: Network
    translate: Translate
    settings: TrainConfig


def train_system(cfg: TrainConfig) -> Trained:
    """Train a classifier, an encoder and a translator in a run folder, and measure them on test images.

    The folder gets networks/ and, when all is done, system.json.

    Raises:
      Stopped: if asked to; the same settings go on from there.
    """
    # --- data ---
    sets = images.load(
        cfg.dataset,
        cfg.seed,
        data_dir=cfg.data_dir,
        size=cfg.size,
        images=cfg.images,
        preprocess=cfg.preprocess,
    )
    recipe, folder = cfg.recipe, pathlib.Path(cfg.out)
    with runtime.Run(cfg.out, cfg, may_differ=TRAIN_MAY_DIFFER) as run, stopping() as stop:
        stages = _Stages(run, stop, cfg)
        # --- classifier and encoder ---
        if cfg.classifier is not None:
            classifier = given_classifier(cfg, sets.classes, sets.shape)
            keep_network(folder, "classifier", classifier)
        else:
            model, stage = networks.classifier_stage(sets, recipe, cfg.seed, dataset=cfg.dataset)
            classifier = stages.network("classifier", model, lambda: [lambda _: stage], stage.total)
        model, learning = networks.encoder_stage(sets, recipe, cfg.seed)
        stages.network("encoder", model, lambda: [lambda _: learning], learning.total)

        # --- translator ---
        trained = None
        if cfg.kind in TRANSLATORS:
            model = networks.translator_of(cfg.kind, recipe, sets.shape)

            def parts() -> list[Callable[[Any], Stage]]:
                paired = TRANSLATORS[cfg.kind].paired
                pool = networks.pairs_of(sets, classifier, recipe, cfg.seed) if paired else None
                return networks.translator_stages(cfg.kind, sets, classifier, pool, recipe, cfg.seed)

            trained = stages.network("translator", model, parts)
        until = _best_time(cfg, sets, classifier, trained) if cfg.kind == "ddpm" else None

    # --- measure ---
    translate = _translate(cfg, trained, until)
    rows, pictures = _measure(cfg, sets, classifier, translate)
    shown = subsets.batch_in_words(batch_subset(sets.test, cfg.evaluation_images), sets.test, cfg.dataset)
    made = {
        "kind": cfg.kind,
        "shape": list(sets.shape),
        "classes": sets.classes,
        "until": until,
        "images": shown,
        "measured": rows,
    }
    strict_json.write(folder / "system.json", made, indent=2)
    return Trained(folder, rows, pictures, until, shown)


def given_classifier(cfg: TrainConfig, classes: int, shape: tuple[int, ...]) -> Network:
    """Open the classifier that is trained already: a run folder, or a file of PyTorch weights.

    Raises:
      ValueError: in one line, if it is not there, or has another number of logits than there are classes.
    """
    path = cfg.classifier or ""
    if path.endswith((".pt", ".pth", ".ckpt", ".safetensors")):
        if not pathlib.Path(path).is_file():
            raise ValueError(f"--classifier {path}: there is no such file, weights must be downloaded first")
        return weights.imported(path, classes=classes, shape=shape)
    network, _ = open_classifier(path, data_dir=cfg.data_dir)
    few = np.zeros((1, *shape), np.float32)
    checks.logits(f"--classifier {path}", network.logits_fn, few, classes=classes)
    return network


def stages_of_shapes(cfg: TrainConfig, shape: tuple[int, ...], classes: int) -> list[Stage]:
    """List the stages of a run over shapes alone, where data and weights need not be there.

    Args:
      cfg: the settings.
      shape: of the images in the files; digits are enlarged as in a run.
      classes: of the images.
    Raises:
      ValueError: for a translator of one's own, or a set whose number of images is not known.
    """
    if cfg.kind not in TRANSLATORS:
        raise ValueError(f"kind is {cfg.kind!r}, must be one of {', '.join(TRANSLATORS)} to be planned")
    recipe, shape = cfg.recipe, (16, 16, 1) if cfg.dataset == "digits" else shape
    if cfg.size is not None:
        shape = (cfg.size, cfg.size, shape[-1])
    count = _wanted(cfg.images) or training_images(cfg.dataset)
    sets = _shapes(count, shape, classes)
    stages = []
    # --- classifier and encoder; a classifier that is given is taken to be the recipe's ---
    model, stage = networks.classifier_stage(sets, recipe, cfg.seed, dataset=cfg.dataset)
    if cfg.classifier is None:
        stages.append(stage)
    params, state = _nothing(model)
    classifier = Network(model, params, state, {})
    fewer = _shapes(min(count, _wanted(recipe.encoder_images) or count), shape, classes)
    stages.append(networks.encoder_stage(fewer, recipe, cfg.seed)[1])
    # --- translator ---
    pool = None
    if TRANSLATORS[cfg.kind].paired:
        dtype = jnp.uint8 if recipe.as_bytes else jnp.float32
        pairs: Any = jax.ShapeDtypeStruct((networks.count_pairs(recipe, count), *shape), dtype)
        pool = ImagePair(pairs, pairs)
    weights = _nothing(networks.translator_of(cfg.kind, recipe, shape))
    parts = networks.translator_stages(cfg.kind, sets, classifier, pool, recipe, cfg.seed)
    return [*stages, *(part(weights) for part in parts)]


def _wanted(images: subsets.Wanted) -> int | None:
    return None if images is None else subsets.rule(images).images


def _shapes(count: int, shape: tuple[int, ...], classes: int) -> Sets:
    image: Any = jax.ShapeDtypeStruct((count, *shape), jnp.float32)
    part = Batch(image, jnp.arange(count, dtype=jnp.int32) % classes)
    return Sets(part, part, part)


def _nothing(model: Model) -> Any:
    """Make weights of zeros: a program does not depend on them."""
    return jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(model.init, jax.random.key(0)))


class _Stages:
    """The stages of a run, one after the other; counts how many updates those before have made."""

    def __init__(self, run: runtime.Run, stop: Stop, cfg: TrainConfig) -> None:
        self._run, self._stop, self._cfg, self._before = run, stop, cfg, 0

    def network(
        self,
        name: str,
        model: Model,
        parts: Callable[[], list[Callable[[Any], Stage]]],
        updates: int = 0,
    ) -> Network:
        """Read a network that is trained already, or train it stage by stage and keep it.

        Args:
          name: of its folder.
          model: what is trained.
          parts: lists its stages, each built from the weights that the one before left.
          updates: of all its stages; they count as well where the network is read.
        """
        folder = self._run.folder
        found = read_network(folder, name, model) if (folder / "networks" / name).exists() else None
        if found is not None:
            self._before += updates
            return found
        weights: Any = None
        for part in parts():
            stage = part(weights)
            weights = self._fitted(stage)
            self._before += stage.total
        network = Network(model, weights[0], weights[1], {})
        keep_network(folder, name, network)
        return network

    def _fitted(self, stage: Stage) -> Any:
        with runtime.Checkpoints(self._run.folder / "stages" / stage.name, keep=1) as saved:
            fitted = runtime.fit_stage(
                stage, saved=saved, stop=self._stop, run=self._run, updates_before=self._before,
                segment=self._cfg.segment, save_every=self._cfg.save_every,
            )  # fmt: skip
        if fitted.exit_code:
            raise Stopped(fitted.exit_code)
        return stage.weights(fitted.state)


def _best_time(cfg: TrainConfig, sets: Sets, classifier: Network, trained: Network | None) -> float:
    """Choose the time of the diffusion at which validation images, clean and attacked, are classified best."""
    chosen = batch_subset(sets.valid, cfg.evaluation_images)
    attacked = _attacked(cfg, classifier, chosen)
    scores = {}
    for until in cfg.recipe.until:
        translate = jax.jit(_translate(cfg, trained, until))
        right = [
            float(logit.correct(classifier.logits_fn(translate(jax.random.key(1), x)), chosen.label).mean())
            for x in (chosen.image, attacked)
        ]
        scores[until] = sum(right) / 2
        runtime.say(f"time {until:g}: validation accuracy {right[0]:.3f} clean, {right[1]:.3f} attacked")
    return max(scores, key=lambda until: scores[until])


def _attacked(cfg: TrainConfig, classifier: Network, batch: Batch) -> jax.Array:
    """Attack the classifier alone: PGD on the cross-entropy at the recipe's radius."""
    eps = cfg.recipe.eps
    ascent = pgd(Threat("linf", eps), steps=cfg.evaluation_steps, step_size=eps / 10)
    attack = against(ascent, objectives.cross_entropy)
    run = jax.jit(lambda key, x, y: attack(key, classifier.logits_fn, x, y).x)
    return run(jax.random.key(17), batch.image, batch.label)


def _measure(cfg: TrainConfig, sets: Sets, classifier: Network, translate: Translate) -> tuple[Any, Any]:
    """Measure f and f after T on test images, clean, attacked without knowing T, and shifted; pictures of all."""
    batch = batch_subset(sets.test, cfg.evaluation_images)
    families = {
        "clean": batch.image,
        f"PGD-{cfg.evaluation_steps}, linf {cfg.recipe.eps:.3g}": _attacked(cfg, classifier, batch),
        "darker, times 0.3": tones.brightness(batch.image, 0.3),
        "sharper, times 4": tones.sharpness(batch.image, 4.0),
    }
    run, f = jax.jit(translate), jax.jit(classifier.logits_fn)
    rows, pictures = [], {}
    for name, x in families.items():
        back = run(jax.random.key(5), x)
        before, after = (100 * float(logit.correct(f(z), batch.label).mean()) for z in (x, back))
        rows.append(
            {
                "images": name,
                "accuracy of f %": before,
                "accuracy of f after T %": after,
                "distance before": float(jnp.abs(x - batch.image).mean()),
                "distance after": float(jnp.abs(back - batch.image).mean()),
            }
        )
        pictures[name] = jax.device_get((batch.image[:8], x[:8], back[:8]))
    return rows, pictures


# --- the folder of a system -----------------------------------------------------------------------------


def open_system(folder: str | pathlib.Path) -> System:
    """Open a finished run folder of ood_to_id.train.

    Raises:
      ValueError: if the folder holds none, or one that is not finished.
    """
    opened = runtime.open_run(folder, made_by="ood_to_id.train", needed=("kind", "recipe"))
    cfg = opened.settings(TrainConfig)
    try:
        made = json.loads((opened.folder / "system.json").read_text(encoding="utf-8"))
        shape, classes, until = tuple(made["shape"]), made["classes"], made["until"]
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(
            f"{folder} holds no finished run of ood_to_id.train ({type(error).__name__}: {error})"
        ) from None
    if cfg.classifier is None:
        model = networks.classifier_of(cfg.recipe, cfg.dataset, classes, shape)
    else:
        model = given_classifier(cfg, classes, shape).model
    encoder = networks.encoder_of(cfg.recipe, shape)
    trained = None
    if cfg.kind in TRANSLATORS:
        trained = _there(opened.folder, "translator", networks.translator_of(cfg.kind, cfg.recipe, shape))
    return System(
        _there(opened.folder, "classifier", model),
        _there(opened.folder, "encoder", encoder),
        _translate(cfg, trained, until),
        cfg,
    )


def keep_network(folder: pathlib.Path, name: str, network: Network) -> None:
    """Write the weights of a network into the folder of a run, once."""
    with runtime.Checkpoints(folder / "networks" / name, keep=1) as saved:
        if not saved.steps():
            saved.save(1, {"params": network.params, "state": network.state})


def read_network(folder: pathlib.Path, name: str, model: Model) -> Network | None:
    """Read the weights of a network that `keep_network` wrote, None if there are none."""
    params, state = jax.eval_shape(model.init, jax.random.key(0))
    with runtime.Checkpoints(folder / "networks" / name, keep=1, read_only=True) as saved:
        found = saved.restore({"params": params, "state": state})
    if found is None:
        return None
    tree: Any = found[0]
    return Network(model, tree["params"], tree["state"], {})


def _there(folder: pathlib.Path, name: str, model: Model) -> Network:
    if (found := read_network(folder, name, model)) is None:
        raise ValueError(f"{folder / 'networks' / name} has no whole checkpoint")
    return found


def _translate(cfg: TrainConfig, trained: Network | None, until: float | None) -> Translate:
    return translator(
        cfg.kind,
        trained,
        sizes=cfg.recipe.sizes,
        steps=cfg.recipe.steps,
        **({} if until is None else {"until": until}),
    )
