"""Train a classifier or segmenter on a learned perturbation set, and attack it inside the set over radii.

    python -m experiments.perturbation_sets.train digits --out runs/cvae
    python -m experiments.perturbation_sets.train_classifier digits --set runs/cvae --out runs/learned
    python -m experiments.perturbation_sets.train_classifier digits --set runs/cvae --method smoothed --out runs/s
    python -m experiments.perturbation_sets.train_classifier scenes --set runs/lit --method augmented --out runs/scenes

Methods: plain; real (on the perturbations that the set was learned from); augmented (on random points of the set);
adversarial (on an image or what an attack in the set made of it, whichever has the larger loss); stability; and, to be
certified by `certify`, with noise in latents: smoothed, smoothadv (the smoothed classifier is attacked within
--attack-radius times the radius), macer (its certified radius is made large), consistency (predictions under noise
agree) and smoothmix (less certain on the way to where the smoothed classifier is wrong).

Accuracy is measured on clean images, on real perturbations, on the worst of many real ones, and under PGD with restarts
at --radii, by default the quartiles and the largest of the encodings' norms, where u = 0 and the encoding of a real
perturbation are candidates too. Started again with the same --out it goes on bit for bit. Batches are cut over all
devices; on several machines, run the same command on each with --distributed (and --cluster.* where no scheduler
tells).

The presets beside digits, scenes and smoke are the settings of Wong and Kolter 2020, arXiv:2007.08450.
"""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from experiments.perturbation_sets import report
from experiments.perturbation_sets.config import CLASSIFIER_PRESETS as PRESETS
from experiments.perturbation_sets.config import RADII, TrainClassifierConfig
from experiments.perturbation_sets.losses import inputs_of, loss_of
from experiments.perturbation_sets.networks import (
    LearnedSet,
    batches,
    classifier_for,
    examples_of,
    open_set,
    pairs_of,
    radius_of,
    set_of_shapes,
    settings_of_set,
    stacked_shape,
)
from experiments.shared import command_line, report_pieces
from experiments.shared.planned import Planned, batch_of, of_step
from robustjax import data, evaluation, runtime, training
from robustjax.data import subsets
from robustjax.evaluation import inside_sets
from robustjax.perturbations.pairs import HELD_OUT, corrupted
from robustjax.runtime import strict_json
from robustjax.runtime.snapshot import in_bytes
from robustjax.types import Model, Params, State

Arrays = dict[str, np.ndarray]
MAY_DIFFER = (
    *("out", "data_dir", "save_every", "distributed", "cluster"),
    *("images", "radii", "steps", "restarts", "queries", "real_samples"),  # of the evaluation
)


def main(cfg: TrainClassifierConfig) -> int:
    """Train, evaluate, report."""
    cfg.cluster.join(cfg.distributed)
    mesh = runtime.data_mesh()

    # --- set, data and network ---
    learned_set = open_set(cfg.set, data_dir=cfg.data_dir)
    radius, model = radius_of(cfg, learned_set), classifier_for(cfg, learned_set)
    train, test = learned_set.splits[0], subsets.subset(learned_set.splits[2], cfg.images)

    # --- training ---
    total, batch_size = updates(cfg, len(train.label))
    tx = cfg.optimizer.over(total)
    step = training.step(loss_of(cfg, learned_set, model, radius), tx)
    trained_set = runtime.place((learned_set.params, learned_set.state), mesh)
    with (
        runtime.Run(cfg.out, cfg, may_differ=MAY_DIFFER) as run,
        runtime.Checkpoints(run.folder / "checkpoints", keep=1) as saved,
        runtime.stopping() as stop,
    ):
        state, _, exit_code = runtime.fit(
            lambda state, batch: step(state, (batch, trained_set)),
            training.start(jax.random.key(cfg.seed), model, tx, mesh),
            lambda begin, _: data.stream(
                train, batch_size=batch_size, seed=cfg.seed, start=begin, sharding=runtime.over_data(mesh)
            ),
            total=total,
            saved=saved,
            stop=stop,
            run=run,
            save_every=cfg.save_every,
            batch_size=batch_size,
        )
    if exit_code:
        return exit_code

    # --- evaluation ---
    runtime.say(f"evaluating on {len(test.label)} test images")
    found = evaluated(cfg, learned_set, model, (state.params, state.state), test, radius, mesh)
    if jax.process_index() != 0:
        return 0

    # --- results ---
    natural = [name for name in ("clean", "perturbed", "observed", "held_out") if name in found]
    numbers: dict[str, Any] = {name: float(found[name].mean()) for name in natural}
    numbers["radii"] = found["radii"].tolist()
    attacked = [name for name in ("robust", "square", "overlap_attacked") if name in found]
    numbers |= {name: found[name].mean(axis=1).tolist() for name in attacked}
    strict_json.write(run.folder / "robustness.json", numbers, indent=2)
    small = {name: value for name, value in found.items() if value.ndim <= 2}
    runtime.write_whole(run.folder / "robustness.npz", in_bytes(small))
    for name in natural:
        print(f"{name:10s} {100 * numbers[name]:.1f} %")
    for i, (r, share) in enumerate(zip(numbers["radii"], numbers["robust"], strict=True)):
        blind = f"  without gradients {100 * numbers['square'][i]:.1f} %" if "square" in numbers else ""
        print(f"radius {r:6.2f}  {100 * share:.1f} %{blind}")
    page = report.classifier(cfg, learned_set.model.dimension, found, runtime.read_metrics(cfg.out))
    page.text(report_pieces.images(test))
    runtime.say(f"report: {page.write(run.folder / 'report.html')}")
    return 0


def updates(cfg: TrainClassifierConfig, examples: int) -> tuple[int, int]:
    """Count the updates of the run, and the images of each."""
    return cfg.epochs * max(1, examples // cfg.batch_size), min(cfg.batch_size, examples)


def planned(cfg: TrainClassifierConfig, mesh: Mesh, *, shape: tuple[int, ...], classes: int) -> list[Planned]:
    """List what a run does most of its time, for `benchmarks.plan`: the training step.

    Args:
      cfg: the settings; of the set's folder the name counts, runs/cvae_PRESET of a preset of perturbation_sets.train.
      mesh: of devices, which need not be there.
      shape, classes: of the images, one picture of a scene.
    Raises:
      ValueError: for a set of another name, or no radius, which is that of a set once it is learned.
    """
    if cfg.radius is None:
        raise ValueError("radius is missing, must be given to be planned, such as radius=28")
    learned_set = set_of_shapes(cfg.set, shape, classes)
    model, made = classifier_for(cfg, learned_set), learned_set.config
    total, batch_size = updates(cfg, examples_of(made))
    tx = cfg.optimizer.over(total)
    step = training.step(loss_of(cfg, learned_set, model, cfg.radius), tx)
    of_pixels = shape[:2] if made.pixelwise else ()
    batch = batch_of(batch_size, stacked_shape(made, shape), of_pixels=of_pixels)
    beside = learned_set.params, learned_set.state
    return [of_step(step, model, tx, batch, mesh, calls=total, beside=beside)]


def planned_dataset(cfg: TrainClassifierConfig) -> str:
    """Name the data set of the set, for `benchmarks.plan`."""
    return settings_of_set(cfg.set).dataset


def evaluated(
    cfg: TrainClassifierConfig,
    learned_set: LearnedSet,
    model: Model,
    trained: tuple[Params, State],
    test: data.Split,
    radius: float,
    mesh: Mesh,
) -> Arrays:
    """Evaluate a network on real perturbations, and under attack in the set at every radius.

    Returns:
      `clean`, `perturbed` and `observed` (right on all real perturbations drawn) of shape (n,); `robust` and, if asked
      for, `square` (the attack without gradients), (radii, n), at `radii`; example images. For scenes these are shares
      of right pixels.
    """
    made, autoencoder, inputs = learned_set.config, learned_set.model, inputs_of(learned_set)
    effort = {"steps": cfg.steps, "restarts": cfg.restarts}
    if made.pixelwise:
        on_images = inside_sets.under_lights(model)
        in_set = inside_sets.pixels_in_set(model, autoencoder, inputs.reference, **effort)
    else:
        corruptions = made.pairs.startswith("corrupted")
        # Clean images and their corruptions, whatever pairs of corruptions the set was learned from.
        pairs = corrupted() if corruptions else pairs_of(made).unlimited
        on_images = inside_sets.on_real_perturbations(
            model, pairs, inputs.clean, samples=cfg.real_samples, held_out=HELD_OUT if corruptions else ()
        )
        in_set = inside_sets.in_set(model, autoencoder, pairs, inputs.clean, **effort, queries=cfg.queries)
    natural, attacked = evaluation.mapped(on_images), evaluation.mapped(in_set)
    known = [learned_set.radii[name] for name in RADII if name in learned_set.radii]
    radii = list(cfg.radii) or sorted({r for r in known if r < radius} | {radius})

    def rows():
        return batches(test, runtime.over_data(mesh), size=16 if made.pixelwise else 128)

    key = jax.random.key(1000 + cfg.seed)
    set_weights = runtime.place((learned_set.params, learned_set.state), mesh)
    out: Arrays = {"radii": np.asarray(radii), **natural(key, rows(), *trained)}
    found = [attacked(key, rows(), *trained, *set_weights, np.float32(r)) for r in radii]
    examples = {"image", "worst", "predicted"}
    out |= {name: np.stack([one[name] for one in found]) for name in found[0] if name not in examples}
    out |= {name: found[-1][name][:8] for name in examples}
    return out | {"label": np.asarray(test.label)}


if __name__ == "__main__":
    command_line.script(main, PRESETS, __doc__)
