r"""Measure a classifier on corrupted images: accuracy by corruption and severity, their mean, mCE and relative mCE.

    python -m experiments.classification.corruptions standard --source.run runs/cifar10 --images 500
    python -m experiments.classification.corruptions robustbench --files CIFAR-10-C --source.checkpoint augmix.pt \
        --source.known Hendrycks2020AugMix_WRN --out runs/augmix
    python -m experiments.classification.corruptions robustbench --files ImageNet-C --source.folder imagenet/val \
        --source.image-list imagenet_test_image_ids.txt --source.checkpoint deepaugment.pt \
        --source.known Hendrycks2020Many --out runs/deepaugment
    python -m experiments.classification.corruptions standard --source.function mypackage.net:logits \
        --source.dataset cifar10 --corruptions fog snow --severities 1,3,5 --out runs/mine

Without --files the test images of the data set are corrupted here, by the 19 corruptions of CIFAR-10-C. Every image is
in every cell (a corruption at a severity); the network compiles once. The folder gets results.npz (each prediction),
results.json and report.html with a heat map. A killed run goes on where it was when started again with the same --out.
"""

import pathlib
from functools import partial

import jax
import numpy as np

from experiments.classification.config import CORRUPTIONS_PRESETS as PRESETS
from experiments.classification.config import CorruptionsConfig
from experiments.classification.corruptions_report import published_cells, summary, write_report
from experiments.shared import command_line, network_source
from robustjax import checks, runtime
from robustjax.analysis.corruption_error import WHOLE, Baseline, base_errors
from robustjax.catalog import known_checkpoints
from robustjax.catalog.corruption_baselines import BASELINES
from robustjax.data import Split
from robustjax.evaluation import corrupted_files
from robustjax.evaluation.corruptions import Cells, CorruptionResults, corrupted, of_another_size, over_cells
from robustjax.evaluation.identity import identity
from robustjax.runtime import result_files
from robustjax.runtime.image_progress import image_progress
from robustjax.runtime.provenance import digest, made_with, plain
from robustjax.runtime.snapshot import Snapshot
from robustjax.types import frozen

IMAGENET_CLASSES = 1000


def main(cfg: CorruptionsConfig) -> None:
    """Classify every image in every cell, tabulate, draw."""
    # --- network, images, corruptions ---
    runtime.one_device_per_core()
    known = cfg.source.entry_of()
    it = network_source.open_network(cfg.source, cfg.images, cfg.seed, streamed=True)
    cells = cells_of(cfg, it.test)
    baseline = baseline_of(cfg, cells, len(it.test.info.classes))
    out = pathlib.Path(cfg.out or pathlib.Path(cfg.source.run or "") / "corruptions")
    out.mkdir(parents=True, exist_ok=True)
    who = identity(it.network, it.test.image, it.test.index, random=cfg.source.stochastic)
    about_all = {"network": it.network.about, "data": plain(it.test.info), "identity": who}

    # --- predictions ---
    mesh = runtime.data_mesh()
    rows = runtime.over_data(mesh) if mesh.size > 1 else None
    arguments = (it.reference.params, it.reference.state)
    # Another baseline, another place or another batch size changes no prediction.
    settings = digest(
        {"config": plain(cfg), **about_all}, ("config.out", "config.batch_size", "config.baseline")
    )
    memory = Snapshot(out / f"progress_{settings}.npz")
    results = over_cells(
        partial(frozen, it.reference.model),
        runtime.place(arguments, mesh) if rows else arguments,
        cells,
        batch_size=cfg.batch_size,
        sharding=rows,
        memory=memory,
        about=settings,
        progress=image_progress(),
    )

    # --- report ---
    flags = checks.joined(it.flags, (checks.answered(results.answers),))
    if not cfg.files:
        flags = (*flags, of_another_size(it.test.image.shape[1:3]))
    if known:
        correct = int((results.clean == results.label).sum())
        flags = (*flags, known_checkpoints.doubt(known, correct, len(results.label)))
        if cfg.files and (stated := published_cells(known)):
            counts = results.right.sum(axis=-1)
            found = {
                (name, int(severity)): int(counts[i, j])
                for i, name in enumerate(results.corruptions)
                for j, severity in enumerate(results.severities)
            }
            flags = (*flags, known_checkpoints.doubt_cells(stated, found, len(results.label)))
    told = summary(results, baseline, known, files=cfg.files)
    about = {
        **about_all,
        "config": plain(cfg),
        "files": cfg.files or "corrupted here",
        **told,
        "flags": [plain(flag) for flag in flags],
        "made_with": made_with(),
    }
    result_files.write_arrays(out, results, about, summary={"schema": result_files.SCHEMA, **about})
    for name in ("clean", "mean", "mCE", "relative mCE"):
        if line := told[name]:
            runtime.say(f"{name:>12}  {line['%']:6.2f} %  ({line['95 % interval']})  {line['of']}")
    if known:
        runtime.say(known.published())
        for name, value in told["published"].items():
            runtime.say(f"{name:>12}  {told[name]['%']:6.2f} % measured, {value:.2f} % published")
    for flag in flags:
        if flag.raised:
            runtime.say(f"warning: {flag.name}: {flag.says}")
    page = write_report(cfg, it.network, it.test, cells, results, told, flags, out)
    runtime.say(f"report: {page}")
    memory.remove()


def cells_of(cfg: CorruptionsConfig, test: Split) -> Cells:
    """Find the corrupted images in files, or make them where they are needed."""
    if not cfg.files:
        return corrupted(
            test.image, test.label, test.index, corruptions=cfg.names(), severities=cfg.severities,
            key=jax.random.key(cfg.seed), chunk_size=cfg.batch_size,
        )  # fmt: skip
    return corrupted_files.cells(
        cfg.files, test, corruptions=cfg.corruptions, severities=cfg.severities, held_out=cfg.held_out,
        preprocess=cfg.preprocessing,
    )  # fmt: skip


def baseline_of(cfg: CorruptionsConfig, cells: Cells, classes: int) -> Baseline | None:
    """Look up what mCE is divided by, by default what is published for a benchmark on ImageNet; None for mean errors.

    Raises:
      ValueError: before any work, if there is none of that name, or it does not fit the cells.
    """
    if cfg.baseline == "none":
        return None
    if cfg.baseline is None:
        whole = [one for one in BASELINES.values() if set(one.error) <= set(cells.corruptions)]
        whole = whole if set(cells.severities) == set(WHOLE) else []
        return whole[0] if whole and classes == IMAGENET_CLASSES and cfg.files else None
    if cfg.baseline in BASELINES:
        found = BASELINES[cfg.baseline]
        if classes != IMAGENET_CLASSES or not cfg.files:
            raise ValueError(
                f"--baseline is {cfg.baseline}, {found.name}, must be another one for "
                + (f"images of {classes} classes" if cfg.files else "images that are corrupted here")
            )
    elif (pathlib.Path(cfg.baseline) / "results.npz").is_file():
        earlier, _ = result_files.read_arrays(cfg.baseline, CorruptionResults)
        if not np.array_equal(earlier.index, cells.number):
            raise ValueError(
                f"--baseline {cfg.baseline} is a report on other images, must be on the same ones in the same order"
            )
        errors = 1 - earlier.right.mean(axis=(1, 2))
        found = Baseline(
            f"the network of {cfg.baseline}",
            float((earlier.clean != earlier.label).mean()),
            dict(zip(earlier.corruptions, errors.tolist(), strict=True)),
            tuple(earlier.severities.tolist()),
        )
    else:
        raise ValueError(
            f"--baseline is {cfg.baseline}, must be none, {', '.join(BASELINES)}, or the folder of an earlier report"
        )
    names = [name for name in cells.corruptions if name in found.error]
    base_errors(names or cells.corruptions, cells.severities, found)
    return found


if __name__ == "__main__":
    command_line.script(main, PRESETS, __doc__)
