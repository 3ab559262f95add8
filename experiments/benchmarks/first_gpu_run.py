"""Use the first minutes on a GPU: what matters most first, each line said and kept as soon as it is known.

    python -m experiments.benchmarks.plan classification.train cifar10 --topology h200:1 --batch-size 512 \
        --settings dtype=bfloat16 --out plan
    python -m experiments.benchmarks.first_gpu_run full --data cifar10.npz --bounds plan/plan.jsonl --out runs/first

At most nine minutes (`--seconds`): the device and its peaks; whether compiled programs come back from disk; steps of
PGD-10 training of two networks in three batch sizes; a segment of each attack of AutoAttack; certificates; then a
training on CIFAR-10 by N-FGSM with a moving average of the weights, from an npz file that is carried along. `--bounds`
are lines of benchmarks.plan, made before on any machine; each time is printed beside its bound.

Every part is a line in lines.jsonl. Started again with the same --out, parts that have a line are passed over, and a
training goes on from its checkpoint. A part that would not end in time by a guess is left out, for the next start.
"""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from experiments.benchmarks import gpu_parts, measured_on
from experiments.benchmarks.config import FIRST_GPU_RUN_PRESETS as PRESETS
from experiments.benchmarks.config import FirstGpuRunConfig
from experiments.benchmarks.gpu_parts import Part
from experiments.shared import command_line
from robustjax import runtime


def main(cfg: FirstGpuRunConfig) -> int:
    """Measure one part after the other."""
    began = time.monotonic()
    images, bounds = gpu_parts.opened(cfg.data), lines(cfg.bounds, "--bounds")
    out = Path(cfg.out)
    out.mkdir(parents=True, exist_ok=True)
    runtime.cache_compiled()
    packages = measured_on.versions("jax", "jaxlib", "flax")
    left_out = run(
        gpu_parts.parts(cfg, images, bounds),
        done={line["part"] for line in lines(str(out / "lines.jsonl"), "--out", there=False)},
        left=lambda: cfg.seconds - (time.monotonic() - began),
        keep=lambda name, found: measured_on.append(
            str(out / "lines.jsonl"), cfg, packages, part=name, result=found
        ),
    )
    runtime.say(f"{time.monotonic() - began:.0f} s; lines: {out / 'lines.jsonl'}")
    if left_out:
        runtime.say(f"no time for {', '.join(left_out)}: the same command goes on with them")
    return 0


def run(
    parts: Sequence[Part],
    *,
    done: set[str],
    left: Callable[[], float],
    keep: Callable[[str, dict[str, Any]], None],
) -> list[str]:
    """Measure the parts that are not done and end in time; return the names of those that would not.

    A part that fails is said and gets no line, so that the others are measured and a next start tries it again.

    Args:
      parts: in order.
      done: names of those that have a line.
      left: seconds.
      keep: (name, line) keeps a line.
    """
    late = []
    for part in parts:
        if part.name in done:
            runtime.say(f"{part.name}: measured before")
        elif part.estimate > left():
            late.append(part.name)
        else:
            try:
                found = part.measure()
            except Exception as error:  # out of memory, a compiler that aborts: said, and on with the next
                text = " ".join(str(error).split())[:300]
                runtime.say(f"{part.name}: failed, {type(error).__name__}: {text}")
                continue
            keep(part.name, found)
            runtime.say(f"{part.name}: {gpu_parts.in_words(found)}")
    return late


def lines(path: str | None, flag: str, *, there: bool = True) -> list[dict[str, Any]]:
    """Read lines of JSON, none where no file is named or, unless it must be there, where there is none.

    Raises:
      ValueError: in one line, if the file is not there or holds something else.
    """
    if path is None or not (there or Path(path).exists()):
        return []
    try:
        return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise ValueError(f"{flag} is {path}, must be a file of lines of JSON ({error})") from None


if __name__ == "__main__":
    command_line.script(main, PRESETS, __doc__)
