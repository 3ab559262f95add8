"""Train a classifier or segmenter on a learned perturbation set, and attack it inside the set over radii.

    python experiments/train_cvae.py digits --out runs/cvae
    python experiments/train_learned.py digits --set runs/cvae --method adversarial --out runs/learned
    python experiments/train_learned.py digits --set runs/cvae --method smoothed --out runs/smoothed
    python experiments/train_learned.py scenes --set runs/cvae_lit --method augmented --out runs/scenes

Methods: plain; real (on the perturbations that the set was learned from); augmented (on random points of the set);
adversarial (on the harder of an image and what an attack in the set made of it); stability; smoothed (with noise in
latents, to be certified by eval_certified.py). It is judged clean, on real perturbations, on the worst of many real
ones, and under PGD with restarts at the quartiles and the largest of the encodings' lengths, where u = 0 and the
encoding of a real perturbation are candidates too. Started again with the same --out it goes on bit for bit.

The presets beside digits, scenes and smoke are the settings of Wong and Kolter 2020, arXiv:2007.08450.
"""

import json
from typing import Any

import common
import cvaes
import jax
import learned_runs
import numpy as np
from learned_judge import judged
from learned_runs import PRESETS, Config
from pages import learned as page

from robustjax import data, runtime, training
from robustjax.runtime.stopping import stopping

MAY_DIFFER = ("out", "data_dir", "save_every", "images", "steps", "restarts", "queries", "observed")


def main(cfg: Config) -> int:
    """Train, judge, report."""
    it = cvaes.opened(cfg.set, data_dir=cfg.data_dir)
    radius, model = learned_runs.radius_of(cfg, it), learned_runs.network(cfg, it)
    train, test = it.splits[0], common.first(it.splits[2], cfg.images)
    total = cfg.epochs * max(1, len(train.label) // cfg.batch_size)
    tx, loss = common.optimizer(cfg.optimizer, total), learned_runs.loss_of(cfg, it, model, radius)
    update = training.step(loss, tx)
    trained = it.params, it.state
    with (
        runtime.Run(cfg.out, cfg, may_differ=MAY_DIFFER) as run,
        runtime.Checkpoints(run.folder / "checkpoints", keep=1) as saved,
        stopping() as stop,
    ):
        state: Any = training.start(jax.random.key(cfg.seed), model, tx)
        state, begin = saved.restore(state) or (state, 0)
        run.resume(begin)
        stream = data.stream(
            train, batch_size=min(cfg.batch_size, len(train.label)), seed=cfg.seed, start=begin
        )
        bar = runtime.progress(stream, total=total, start=begin, label="train", batch_size=cfg.batch_size)
        for i, batch in bar:
            state, metrics = update(state, (batch, trained))
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
    runtime.say(f"judging on {len(test.label)} test images")
    found = judged(cfg, it, model, state.params, state.state, test, radius)
    numbers: dict[str, Any] = {
        name: float(value.mean()) for name, value in found.items() if value.ndim == 1 and value.size
    }
    numbers |= {"radii": found["radii"].tolist(), "robust": found["robust"].mean(axis=1).tolist()}
    runtime.write_whole(run.folder / "robustness.json", json.dumps(numbers, indent=2) + "\n")
    with open(run.folder / "robustness.npz", "wb") as file:
        np.savez(file, **{name: value for name, value in found.items() if value.ndim <= 2})  # pyright: ignore[reportArgumentType]
    for what in ("clean", "perturbed", "observed", "overlap"):
        if what in numbers:
            print(f"{what:10s} {100 * numbers[what]:.1f} %")
    for r, share in zip(numbers["radii"], numbers["robust"], strict=True):
        print(f"radius {r:6.2f}  {100 * share:.1f} %")
    place = page.page(cfg, it, found, runtime.read_metrics(cfg.out)).write(run.folder / "report.html")
    runtime.say(f"report: {place}")
    return 0


if __name__ == "__main__":
    common.script(main, PRESETS, __doc__)
