"""Measure how fast pictures are read and decoded for training, beside what chips are planned to ask for.

    python -m experiments.benchmarks.reading imagenet --dataset imagenet
    python -m experiments.benchmarks.reading imagenet --dataset imagenet --plan runs/plan/plan.jsonl
    python -m experiments.benchmarks.reading smoke

The set is one whose pictures are decoded while they are needed: prepared by `data.prepare NAME --source FOLDER
--keep-files`, or by TFDS with original pictures. "per core" is images for each second of CPU time in one thread:
reading, checking, decoding, cutting a random window and scaling. With workers it is wall-clock time, the first batch
left out, which waits for the workers to start. `--plan` reads the lines of `benchmarks.plan`: for each the images per
second that the chips can take at most, and how many cores would have to decode for that, over all hosts together.
"""

import contextlib
import itertools
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmarks import measured_on
from experiments.benchmarks.config import READING_PRESETS as PRESETS
from experiments.benchmarks.config import ReadingConfig
from experiments.shared import command_line
from robustjax import data, runtime
from robustjax.catalog import augmentations
from robustjax.data import feeding

READ = ("training step", "epoch")  # programs of a plan that take new images in every call


def main(cfg: ReadingConfig) -> None:
    """Measure, print, and append a line."""
    asked = lines(cfg.plan)
    split = data.load(cfg.dataset, "train", data_dir=cfg.data_dir, size=cfg.size, streamed=True)
    pieces = parts(cfg, split)
    core = per_core(pieces, cfg.batches)
    images = f"{split.info.count:,} pictures of {cfg.dataset} at {cfg.size} pixels"
    runtime.say(f"{images}: {core:.0f} images per second and core")
    rates = {}
    for workers in cfg.workers or (feeding.usual_workers(),):
        rates[workers] = rate(pieces, workers, cfg.batches)
        runtime.say(
            f"  {workers} workers: {rates[workers]:.0f} images/s, {rates[workers] / max(workers, 1):.0f} each"
        )
    needs = [need(line, core) for line in asked]
    for one in needs:
        runtime.say(
            f"  {one['program']} of {one['network']} on {one['topology']}: at most "
            f"{one['images/s at most']:.0f} images/s, which {one['cores']:.1f} cores decode"
        )
    found = {"per core": core, "workers": rates, "needs": needs}
    measured_on.append(cfg.out, cfg, measured_on.versions("jax", "grain", "pillow", "array_record"), **found)


def parts(cfg: ReadingConfig, split: data.Split) -> feeding.Pieces:
    """Say what one process decodes: whole batches."""
    image: Any = split.image
    windows, _ = augmentations.where_decoded(cfg.augment)
    return feeding.Pieces(
        image,
        feeding.ShuffledRows(len(split.label), cfg.batch_size, seed=cfg.seed, lane=0),
        batch_size=cfg.batch_size,
        own=np.arange(cfg.batch_size),
        start=0,
        windows=windows,
        seed=cfg.seed,
        lane=0,
    )


def per_core(pieces: feeding.Pieces, batches: int) -> float:
    """Decode in one thread: images per second of CPU time."""
    pieces[0]  # opens files
    begin = time.process_time()
    images = sum(len(pieces[number]) for number in range(1, 1 + batches * pieces.each))
    return images / (time.process_time() - begin)


def rate(pieces: feeding.Pieces, workers: int, batches: int) -> float:
    """Let workers decode: images per second of wall-clock time, after the first batch."""
    with contextlib.closing(feeding.fed(pieces, workers)) as feed:
        next(feed)
        begin = time.perf_counter()
        images = sum(len(batch) for batch in itertools.islice(feed, batches))
        return images / (time.perf_counter() - begin)


def lines(plan: str | None) -> list[dict[str, Any]]:
    """Read the lines of a plan.

    Raises:
      ValueError: in one line, if the file is not there or of another kind.
    """
    if plan is None:
        return []
    try:
        found = [json.loads(line) for line in Path(plan).read_text(encoding="utf-8").splitlines()]
        # Attacks work on the same images for long.
        read = [line for line in found if line["program"] in READ]
        return [line | {"images/s at most": float(line["images/s at most"])} for line in read]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"--plan is {plan}, must be plan.jsonl of benchmarks.plan ({error})") from None


def need(line: dict[str, Any], core: float) -> dict[str, Any]:
    """Say how many cores decode what a planned program asks for."""
    told = {name: line[name] for name in ("program", "topology", "images/s at most")}
    network = f"{line['config'].get('model', line['script'])} {line['config'].get('dtype', '')}".strip()
    return told | {"network": network, "cores": line["images/s at most"] / core}


if __name__ == "__main__":
    command_line.script(main, PRESETS, __doc__)
