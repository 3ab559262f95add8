"""Train a translator that leads unusual images back to usual ones, with the classifier and the gate it works for.

    python -m experiments.ood_to_id.train digits --out runs/translator
    python -m experiments.ood_to_id.train digits --kind ddpm --out runs/translator_ddpm
    python -m experiments.ood_to_id.train mnist --classifier runs/mnist --out runs/translator_mnist

--kind is one of pix2pix, pix2pixhd, dae (a denoising autoencoder), ddpm (a diffusion that purifies, its time chosen on
validation images) and atop (pix2pix, then fine-tuned against attacks that go through it). --classifier takes a run
folder of classification.train instead of training one. Pairs are made of the training images by --recipe.attacks at
shares of --recipe.eps, by --recipe.shifts, and of every image with itself; by those of --recipe.subset (SPSA, which is
slow) only of a share of the images; anew every --recipe.refresh epochs, or once.

The system is reconstructed from the abstract of arXiv:2202.08944 and from the papers of its parts: the tables of that
paper were not available, and its numbers are not compared with. What is measured here are attacks that know nothing of
the translator; how it stands against those that do is for ood_to_id.evaluate to say.

Start it again with the same --out and it goes on bit for bit. The folder gets networks/, system.json and report.html.
"""

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from experiments.ood_to_id import images as translator_sets
from experiments.ood_to_id import networks as translators
from experiments.ood_to_id import run_folders, train_report
from experiments.ood_to_id.networks import Kind, Network, Recipe
from experiments.shared import classifiers, command_line
from robustjax import logit, runtime
from robustjax.attacks import objectives
from robustjax.attacks.compose import against
from robustjax.attacks.pgd import pgd
from robustjax.perturbations import tones
from robustjax.runtime.stopping import Stop, stopping
from robustjax.staged_training import Stage
from robustjax.threats import Threat
from robustjax.types import Batch, Model, frozen


@dataclasses.dataclass(frozen=True)
class Config:
    """Train a translator and what it works with."""

    dataset: str = "digits"  # embedded, enlarged to 16 x 16 pixels; others by name once prepared
    size: int | None = None  # scale and cut other sets to so many pixels
    images: int | None = None  # of each part, all for None
    classifier: str | None = None  # a run folder of classification.train; one is trained by default
    kind: Kind = "pix2pix"
    recipe: Recipe = Recipe()
    judged: int = 500  # test images in the report, and validation images that choose the time of ddpm
    judge_steps: int = 40  # of the attack in the report
    segment: int = 100  # updates between two looks at how training goes
    save_every: int = 5  # segments
    seed: int = 0
    out: str = "runs/translator"
    data_dir: str | None = None

    def check(self) -> None:
        """Refuse what cannot be meant, before any work."""
        for name in ("judged", "judge_steps", "segment", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} is {getattr(self, name)}, must be at least 1")


_MNIST = Recipe(
    classifier="convnet", classifier_epochs=8, encoder="resnet18", encoder_epochs=50, encoder_batch=256, width=64,
    depth=5, critic_width=64, epochs=30, decay=30, eps=0.3, as_bytes=True,
)  # fmt: skip
_SMALL = Recipe(
    classifier="convnet_small", classifier_epochs=6, encoder_images=20000, encoder_epochs=8, depth=5,
    critic_width=16, epochs=1, decay=1, eps=0.3, pairs_of=8000,
)  # fmt: skip
_CIFAR = Recipe(
    classifier="resnet18", classifier_epochs=30, encoder="resnet18", encoder_epochs=200, encoder_batch=512,
    width=64, critic_width=64, critic_layers=2, epochs=50, decay=50, eps=8 / 255, shares=(0.25, 0.5, 1.0),
    as_bytes=True,
)  # fmt: skip
_LARGE = dataclasses.replace(
    _CIFAR, depth=4, blocks=9, critic_layers=3, batch_size=8, encoder_batch=128, epochs=10, decay=10, eps=4 / 255,
    pairs_of=2000,
)  # fmt: skip
PRESETS = {
    "digits": Config(),
    "digits_natural": Config(recipe=Recipe(shifts=translators.NATURAL)),
    "mnist": Config(dataset="mnist", recipe=_MNIST),
    "mnist_small": Config(dataset="mnist", recipe=_SMALL),  # twenty minutes of a small CPU
    "cifar10": Config(dataset="cifar10", recipe=_CIFAR),
    "imagenette": Config(dataset="imagenette/160px-v2", size=160, kind="pix2pixhd", recipe=_LARGE),
    "smoke": Config(
        images=48,
        recipe=Recipe(
            classifier_epochs=1, encoder_epochs=1, encoder_batch=16, width=8, critic_width=4, batch_size=16, epochs=1,
            attacks=("fgsm",), shares=(1.0,), pairs_of=32, adversarial_epochs=1, adversarial_steps=1, steps=2,
            until=(0.1, 0.2), blocks=1,
        ),
        judged=16, judge_steps=2, segment=2, save_every=1,
    ),
}  # fmt: skip
MAY_DIFFER = ("out", "data_dir", "segment", "save_every", "judged", "judge_steps")


def main(cfg: Config) -> int:
    """Train all parts, choose, measure, report."""
    sets = loaded(cfg)
    with runtime.Run(cfg.out, cfg, may_differ=MAY_DIFFER) as run, stopping() as stop:
        log = Log(run, stop, cfg)
        try:
            classifier, _, network = trained(cfg, sets, log)
        except Stopped:
            runtime.say("stopped and saved; the same command goes on from there")
            return stop.exit_code
        until = chosen_time(cfg, sets, classifier, network) if cfg.kind == "ddpm" else None
    shape, classes = sets.train.image.shape[1:], int(sets.train.label.max()) + 1
    told = {"kind": cfg.kind, "shape": list(shape), "classes": classes, "until": until}
    translate = (
        translators.purifier(network, cfg.recipe, until) if until else translators.translate_of(network)
    )
    measured, pictures = judged(cfg, sets, classifier, translate)
    text = json.dumps(told | {"measured": measured}, indent=2) + "\n"
    runtime.write_whole(run.folder / "system.json", text)
    for row in measured:
        print(
            f"{row['images']:22s} f {row['accuracy of f %']:5.1f} %  f after T {row['accuracy of f after T %']:5.1f} %"
        )
    place = train_report.report(cfg, run.folder, measured, pictures, until).write(run.folder / "report.html")
    runtime.say(f"report: {place}")
    return 0


def loaded(cfg: Config) -> translators.Sets:
    """Load the images."""
    if cfg.dataset == "digits":
        sets = translator_sets.digits(cfg.seed)
        return translators.Sets(*(translators.picked(part, slice(cfg.images)) for part in sets))
    return translator_sets.prepared(cfg.dataset, data_dir=cfg.data_dir, size=cfg.size, images=cfg.images)


# --- training -------------------------------------------------------------------------------------------


class Stopped(Exception):
    """The run was told to stop and has saved what it had."""


@dataclasses.dataclass
class Log:
    """Where the run writes, and how many updates the stages before have made."""

    run: runtime.Run
    stop: Stop
    cfg: Config
    before: int = 0

    def kept(self, name: str, model: Model, weights: Callable[[], Any]) -> Network:
        """Read a network that is trained already, or train and keep it."""
        folder = self.run.folder
        if (folder / "networks" / name).exists() and (found := run_folders.read(folder, name, model)):
            return found
        network = Network(model, *weights())
        run_folders.keep(folder, name, network)
        return network

    def finished(self, name: str, stage: Stage) -> Any:
        """Follow a stage to its end, from where it was left; its weights."""
        cfg, folder = self.cfg, self.run.folder / "stages" / name
        with runtime.Checkpoints(folder, keep=1) as saved:
            fitted = runtime.fit_stage(
                stage, saved=saved, stop=self.stop, run=self.run, updates_before=self.before,
                segment=cfg.segment, save_every=cfg.save_every,
            )  # fmt: skip
        if fitted.exit_code:
            raise Stopped
        return stage.weights(fitted.state)


def trained(cfg: Config, sets: translators.Sets, log: Log) -> tuple[Network, Network, Network]:
    """Train classifier, encoder and translator, or read what is trained already; all are kept in networks/."""
    recipe, folder = cfg.recipe, log.run.folder
    if cfg.classifier is not None:
        made = classifiers.trained(cfg.classifier, data_dir=cfg.data_dir)
        classifier = Network(made.model, made.params, made.state)
        run_folders.keep(folder, "classifier", classifier)
    else:
        model, stage = translators.classifier_stage(sets, recipe, cfg.seed, dataset=cfg.dataset)
        classifier = log.kept("classifier", model, lambda: log.finished("classifier", stage))
        log.before += stage.total
    model, learning = translators.encoder_stage(sets, recipe, cfg.seed)
    encoder = log.kept("encoder", model, lambda: log.finished("encoder", learning))
    log.before += learning.total

    def translator() -> Any:
        pool = None if cfg.kind == "ddpm" else translators.views_of(sets, classifier, recipe, cfg.seed)
        weights: Any = None
        for part in translators.stages(cfg.kind, sets, classifier, pool, recipe, cfg.seed)[1]:
            stage = part(weights)
            weights = log.finished(stage.name, stage)
            log.before += stage.total
        return weights

    model = translators.translator_of(cfg.kind, recipe, sets.train.image.shape[1:])
    return classifier, encoder, log.kept("translator", model, translator)


def chosen_time(cfg: Config, sets: translators.Sets, classifier: Network, network: Network) -> float:
    """Choose the time of the diffusion at which validation images, clean and attacked, are classified best."""
    images = translators.picked(sets.valid, slice(cfg.judged))
    attacked = attack_of(cfg)(classifier, images)
    scores = {}
    for until in cfg.recipe.until:
        translate = jax.jit(translators.purifier(network, cfg.recipe, until))
        right = [
            float(logit.correct(classifier(translate(jax.random.key(1), x)), images.label).mean())
            for x in (images.image, attacked)
        ]
        scores[until] = sum(right) / 2
        runtime.say(f"time {until:g}: validation accuracy {right[0]:.3f} clean, {right[1]:.3f} attacked")
    return max(scores, key=lambda until: scores[until])


# --- what came of it ------------------------------------------------------------------------------------


def attack_of(cfg: Config) -> Callable[[Network, Batch], jax.Array]:
    """Build the attack on the classifier alone: PGD on the cross-entropy at the recipe's radius."""
    eps = cfg.recipe.eps
    one = against(
        pgd(Threat("linf", eps), steps=cfg.judge_steps, step_size=eps / 10), objectives.cross_entropy
    )

    def attack(classifier: Network, images: Batch) -> jax.Array:
        run = jax.jit(lambda key, x, y: one(key, classifier, x, y).x)
        return run(jax.random.key(17), images.image, images.label)

    return attack


def judged(cfg: Config, sets: translators.Sets, classifier: Network, translate: Any):
    """Measure f and f after T on test images, clean, attacked without knowing T, and shifted; pictures of all."""
    images = translators.picked(sets.test, slice(cfg.judged))
    unusual = {
        "clean": images.image,
        f"PGD-{cfg.judge_steps}, linf {cfg.recipe.eps:.3g}": attack_of(cfg)(classifier, images),
        "darker, times 0.3": tones.brightness(images.image, 0.3),
        "sharper, times 4": tones.sharpness(images.image, 4.0),
    }
    run, f = jax.jit(translate), jax.jit(frozen(*classifier))
    rows, pictures = [], {}
    for name, x in unusual.items():
        back = run(jax.random.key(5), x)
        before, after = (100 * float(logit.correct(f(z), images.label).mean()) for z in (x, back))
        rows.append(
            {
                "images": name,
                "accuracy of f %": before,
                "accuracy of f after T %": after,
                "distance before": float(jnp.abs(x - images.image).mean()),
                "distance after": float(jnp.abs(back - images.image).mean()),
            }
        )
        pictures[name] = jax.device_get((images.image[:8], x[:8], back[:8]))
    return rows, pictures


if __name__ == "__main__":
    command_line.script(main, PRESETS, __doc__)
