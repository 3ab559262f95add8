"""Train a classifier or segmenter on a learned perturbation set, and attack it inside the set over radii.

    python -m experiments.perturbation_sets.train digits --out runs/cvae
    python -m experiments.perturbation_sets.train_classifier digits --set runs/cvae --out runs/learned
    python -m experiments.perturbation_sets.train_classifier digits --set runs/cvae --method smoothed --out runs/s
    python -m experiments.perturbation_sets.train_classifier scenes --set runs/lit --method augmented --out runs/scenes

Methods: plain; real (on the perturbations that the set was learned from); augmented (on random points of the set);
adversarial (on the harder of an image and what an attack in the set made of it); stability; and, to be certified by
`certify`, with noise in latents: smoothed, smoothadv (the smoothed classifier is attacked within --reach times
the radius) and macer (its certified radius is made large).

It is judged clean, on real perturbations, on the worst of many real ones, and under PGD with restarts at the quartiles
and the largest of the encodings' lengths, where u = 0 and the encoding of a real perturbation are candidates too.
Started again with the same --out it goes on bit for bit. Batches are cut over all devices; on several machines, the
same command on each with --distributed (and --cluster.* where no scheduler tells).

The presets beside digits, scenes and smoke are the settings of Wong and Kolter 2020, arXiv:2007.08450.
"""

import json
import pathlib
from typing import Any

import jax

from experiments.perturbation_sets import (
    autoencoders,
    classifier_losses,
    classifier_runs,
    train_classifier_report,
)
from experiments.perturbation_sets.classifier_accuracy import judged
from experiments.perturbation_sets.classifier_runs import PRESETS, Config
from experiments.shared import command_line, run_folders
from robustjax import runtime, training
from robustjax.data import subsets
from robustjax.runtime.snapshot import in_bytes

MAY_DIFFER = ("images", "steps", "restarts", "queries", "observed")


def main(cfg: Config) -> int:
    """Train, judge, report."""
    cfg.cluster.join(cfg.distributed)
    mesh = runtime.data_mesh()
    it = autoencoders.opened(cfg.set, data_dir=cfg.data_dir)
    radius, model = classifier_runs.radius_of(cfg, it), classifier_runs.network(cfg, it)
    train, test = it.splits[0], subsets.first(it.splits[2], cfg.images)
    total = cfg.epochs * max(1, len(train.label) // cfg.batch_size)
    tx = cfg.optimizer.over(total)
    step = training.step(classifier_losses.loss_of(cfg, it, model, radius), tx)
    trained = runtime.place((it.params, it.state), mesh)
    state, code = run_folders.fitted(
        cfg,
        train,
        lambda state, batch: step(state, (batch, trained)),
        lambda: training.start(jax.random.key(cfg.seed), model, tx, mesh),
        total=total,
        batch_size=min(cfg.batch_size, len(train.label)),
        sharding=runtime.over_data(mesh),
        may_differ=MAY_DIFFER,
    )
    if code:
        return code
    runtime.say(f"judging on {len(test.label)} test images")
    found = judged(cfg, it, model, (state.params, state.state), test, radius, mesh)
    if jax.process_index() != 0:
        return 0
    folder = pathlib.Path(cfg.out)
    told = ("clean", "perturbed", "observed", "held_out")
    numbers: dict[str, Any] = {name: float(found[name].mean()) for name in told if name in found}
    numbers["radii"] = found["radii"].tolist()
    more = ("robust", "square", "overlap_attacked")
    numbers |= {name: found[name].mean(axis=1).tolist() for name in more if name in found}
    runtime.write_whole(folder / "robustness.json", json.dumps(numbers, indent=2) + "\n")
    small = {name: value for name, value in found.items() if value.ndim <= 2}
    runtime.write_whole(folder / "robustness.npz", in_bytes(small))
    for what in (name for name in told if name in numbers):
        print(f"{what:10s} {100 * numbers[what]:.1f} %")
    for i, (r, share) in enumerate(zip(numbers["radii"], numbers["robust"], strict=True)):
        blind = f"  without gradients {100 * numbers['square'][i]:.1f} %" if "square" in numbers else ""
        print(f"radius {r:6.2f}  {100 * share:.1f} %{blind}")
    place = train_classifier_report.page(cfg, it, found, runtime.read_metrics(cfg.out)).write(
        folder / "report.html"
    )
    runtime.say(f"report: {place}")
    return 0


if __name__ == "__main__":
    command_line.script(main, PRESETS, __doc__)
