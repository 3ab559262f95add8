"""Train a classifier or segmenter on a learned perturbation set, and attack it inside the set over radii.

    python experiments/train_cvae.py digits --out runs/cvae
    python experiments/train_learned.py digits --set runs/cvae --method adversarial --out runs/learned
    python experiments/train_learned.py digits --set runs/cvae --method smoothed --out runs/smoothed
    python experiments/train_learned.py scenes --set runs/cvae_lit --method augmented --out runs/scenes

Methods: plain; real (on the perturbations that the set was learned from); augmented (on random points of the set);
adversarial (on the harder of an image and what an attack in the set made of it); stability; and, to be certified by
eval_certified.py, with noise in latents: smoothed, smoothadv (the smoothed classifier is attacked within --reach times
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

import common
import cvaes
import jax
import learned_losses
import learned_runs
import run_folders
from learned_judge import judged
from learned_runs import PRESETS, Config
from pages import learned as page

from robustjax import runtime, training
from robustjax.runtime.snapshot import in_bytes

MAY_DIFFER = ("images", "steps", "restarts", "queries", "observed")


def main(cfg: Config) -> int:
    """Train, judge, report."""
    common.distributed(cfg.distributed, cfg.cluster)
    mesh = runtime.data_mesh()
    it = cvaes.opened(cfg.set, data_dir=cfg.data_dir)
    radius, model = learned_runs.radius_of(cfg, it), learned_runs.network(cfg, it)
    train, test = it.splits[0], common.first(it.splits[2], cfg.images)
    total = cfg.epochs * max(1, len(train.label) // cfg.batch_size)
    tx = common.optimizer(cfg.optimizer, total)
    step = training.step(learned_losses.loss_of(cfg, it, model, radius), tx)
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
    place = page.page(cfg, it, found, runtime.read_metrics(cfg.out)).write(folder / "report.html")
    runtime.say(f"report: {place}")
    return 0


if __name__ == "__main__":
    common.script(main, PRESETS, __doc__)
