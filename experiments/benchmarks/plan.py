"""Plan a run on accelerators that are not at hand: compile its programs for them and bound their time and memory.

    pip install -e '.[plan]'
    python -m experiments.benchmarks.plan classification.train cifar10 --topology v5e:2x4 --batch-size 512
    python -m experiments.benchmarks.plan classification.train cifar10 --topology h100:1 --settings dtype=bfloat16

The compilers of TPUs (libtpu, the extra `plan`) and of NVIDIA's GPUs (the extra `cuda`) run on a CPU. A program
compiled for one of v5e, v5p, v6e, h100, h200 tells how much memory it takes, which operations run in which order, what
devices exchange, and on TPUs how many cycles the compiler expects of each operation. From that and the chip's peaks
follows a bound: no call takes less time than, for each operation, the larger of its arithmetic and its bytes. Waiting,
the host and input are not in it; nothing is measured. Compiling takes half a minute to ten minutes for each topology.

What is planned is what the script lists in `planned`: a training step, or segments of attacks; data need not be
there. `--settings` takes fields of the script as its command line has them. `--out` is a folder: plan.html is the page,
plan.jsonl gets a line for each program and topology, plan.md is the table of all its lines.
"""

import dataclasses
import importlib
import json
import math
from pathlib import Path
from typing import Any

import jax
import tyro
from PIL import Image

from experiments.benchmarks import chips, compiling, measured_on
from experiments.benchmarks.config import PlanConfig as Config
from experiments.benchmarks.time_bounds import Bound, bound
from experiments.shared import command_line
from robustjax import runtime
from robustjax.data import multi_illumination, restricted_imagenet
from robustjax.data.known import KNOWN
from robustjax.data.preprocessing import preprocessing
from robustjax.runtime import report, strict_json

SHAPES = {"digits": (8, 8, 1), "mnist": (28, 28, 1), "fashion_mnist": (28, 28, 1)}
COLOUR = {
    "cifar10": (32, 32, 3),
    "cifar100": (32, 32, 3),
    "svhn_cropped": (32, 32, 3),
    "gtsrb/aloe": (32, 32, 3),
}
LARGE = {"restricted_imagenet": (224, 224, 3)} | {
    f"multi_illumination/mip{mip}": (*multi_illumination.size(mip), 3) for mip in range(8)
}
# Of sets whose files say their classes.
CLASSES = {
    "digits": 10,
    "gtsrb/aloe": 43,
    "imagenet2012": 1000,
    "restricted_imagenet": len(restricted_imagenet.CLASSES),
} | {f"multi_illumination/mip{mip}": len(multi_illumination.CLASSES) for mip in range(8)}
TOP = 10  # operations to list


def main(cfg: Config) -> int:
    """Compile for each topology, bound, print, and write the page."""
    settings = script_config(cfg)
    command_line.validate(cfg)
    jax.config.update("jax_platforms", "cpu")  # devices that are here play no part
    where = [chips.topology(text) for text in cfg.topology]
    shape, classes = images(cfg, settings)
    options = dict(word.split("=", 1) for word in cfg.options)
    rows, pages = [], []
    for one, text in zip(where, cfg.topology, strict=True):
        job = compiling.Job(cfg.script, settings, text, shape, classes, options)
        for made in compiling.compiled(job):
            found = bound(made, one)
            rows.append(row(one, made, found))
            pages.append((rows[-1], made, found))
            say(rows[-1], found)
    if cfg.out:
        write(cfg, settings, rows, pages)
    return 0


def script_config(cfg: Config) -> Any:
    """Read the script's own settings: its preset, the batch size and what else is given.

    Raises:
      ValueError: if there is no such script, preset or setting, or the script says of none of its programs.
    """
    try:
        script = importlib.import_module(f"experiments.{cfg.script}")
    except ModuleNotFoundError:
        raise ValueError(f"script is {cfg.script!r}, must be one such as classification.train") from None
    if not hasattr(script, "planned"):
        raise ValueError(
            f"script is {cfg.script!r}, must be one with `planned`, such as classification.train"
        )
    if cfg.preset not in script.PRESETS:
        raise ValueError(f"preset is {cfg.preset!r}, must be one of {', '.join(script.PRESETS)}")
    preset = script.PRESETS[cfg.preset]
    words = [f"batch-size={cfg.batch_size}"] if cfg.batch_size else []
    given = [word.partition("=") for word in (*words, *cfg.settings)]
    if bad := [name for name, equals, _ in given if not equals]:
        raise ValueError(f"--settings has {bad[0]!r}, must be name=value, a field of {cfg.script}")
    flags = [part for name, _, value in given for part in flag(name, value)]
    settings: Any = tyro.cli(type(preset), default=preset, args=flags, prog=cfg.script)
    command_line.validate(settings)
    return settings


def flag(name: str, value: str) -> list[str]:
    """Write a setting as a command line has it."""
    if value in ("True", "False"):
        return [f"--{name}" if value == "True" else f"--no-{name}"]
    return [f"--{name}", *value.split(",")]


def images(cfg: Config, settings: Any) -> tuple[tuple[int, ...], int]:
    """Say the shape of an image and the number of classes, of a known data set or as given.

    Raises:
      ValueError: if they are neither known nor given.
    """
    name = dataset_of(cfg.script, settings)
    shape = cfg.shape or preprocessed(settings) or (SHAPES | COLOUR | LARGE).get(name)
    known = KNOWN.get(name)
    classes = cfg.classes or (len(known.classes) if known and known.classes else CLASSES.get(name))
    if not shape or not classes:
        raise ValueError(f"the shape of {name!r} is not known here: give --shape 224 224 3 --classes 1000")
    return tuple(shape), classes


def dataset_of(script: str, settings: Any) -> str:
    """Name the data set: that of the settings, what the script's `planned_dataset` says, or the evaluated network's."""
    if dataset := getattr(settings, "dataset", None):
        return dataset
    module = importlib.import_module(f"experiments.{script}")
    if hasattr(module, "planned_dataset"):
        return module.planned_dataset(settings)
    source = getattr(settings, "source", None)
    return source.dataset_of() if source is not None else ""


def preprocessed(settings: Any) -> tuple[int, ...]:
    """Say the shape of pictures that are preprocessed by name; nothing where they are not."""
    name = getattr(settings, "preprocess", None)
    return preprocessing(name)(Image.new("RGB", (640, 480))).shape if name else ()


def network_of(config: dict[str, Any], script: str) -> str:
    """Name the network of a line."""
    source = config.get("source") or {}
    return config.get("model") or source.get("architecture") or script


def row(where: chips.Topology, made: compiling.Compiled, found: Bound) -> dict[str, Any]:
    """Say it all in one line of plain data."""
    sides = "x".join(map(str, where.sides))
    hours = made.calls * found.least / 3600
    return {
        "program": made.name,
        "topology": f"{where.name}:{sides}",
        "images": made.images,
        "bound ms": 1e3 * found.seconds,
        "compiler's cycles ms": None if math.isnan(found.by_compiler) else 1e3 * found.by_compiler,
        "images/s at most": made.images / found.least,
        "share of peak at most": found.share,
        "memory GB": found.peak / 1e9,
        "of GB": where.chip.memory / 1e9,
        "fits about": found.largest,
        "calls": made.calls,
        "hours at least": hours,
        "chip-hours at least": hours * where.chips,
        "exchanged MB": sum(one.bytes for one in found.exchanges) / 1e6,
    }


def say(line: dict[str, Any], found: Bound) -> None:
    """Print what was found for one topology."""
    cycles = line["compiler's cycles ms"]
    beside = "" if cycles is None else f", {cycles:.2f} ms by the compiler's cycles"
    runtime.say(
        f"{line['program']} on {line['topology']}, {line['images']} images: bound {line['bound ms']:.2f} ms{beside}; "
        f"at most {line['images/s at most']:.0f} images/s, {100 * line['share of peak at most']:.0f} % of peak; "
        f"{line['memory GB']:.2f} of {line['of GB']:.0f} GB; {line['calls']} calls take at least "
        f"{line['hours at least']:.2f} h, {line['chip-hours at least']:.2f} chip-hours"
    )
    for one in found.exchanges:
        runtime.say(f"  {one.kind} {one.dtype}: {one.bytes / 1e6:.2f} MB in {one.calls:.0f} calls")
    for one in found.rows[:TOP]:
        runtime.say(f"  {1e3 * one.seconds:9.3f} ms {one.calls:6.0f} x  {one.what}  ({one.limit})")
    for text in found.warnings:
        runtime.say(f"  warning: {text}")


def write(
    cfg: Config,
    settings: Any,
    rows: list[dict[str, Any]],
    pages: list[tuple[dict[str, Any], compiling.Compiled, Bound]],
) -> None:
    """Write the page and the lines."""
    folder = Path(cfg.out or "")
    folder.mkdir(parents=True, exist_ok=True)
    page = report.Report(f"Plan of {cfg.script} {cfg.preset}", {"plan": cfg, "script": settings})
    page.text(
        "Bounds from compiled programs; nothing was measured. For each operation the larger of its arithmetic and its "
        "bytes to and from main memory, over the chip's peaks, times how often it runs; on TPUs beside it the cycles "
        "that the compiler expects. Waiting, the host and input come on top. How many images fit is by proportion."
    )
    page.table(rows)
    for line, made, found in pages:
        page.section(f"{line['program']} on {line['topology']}")
        for text in found.warnings:
            page.text(f"Warning: {text}.")
        ours = [
            {"layer and operation": one.what, "ms": 1e3 * one.seconds, "calls": one.calls, "limit": one.limit}
            for one in found.rows[:TOP]
        ]
        page.table(ours, caption="The dearest operations, each at the larger of its bounds.")
        exchanged = [
            {"kind": one.kind, "type": one.dtype, "MB": one.bytes / 1e6, "calls": one.calls}
            for one in found.exchanges
        ]
        if exchanged:
            page.table(exchanged, caption="What each device gives in one call.")
        page.text(f"Compiled in {made.seconds:.0f} s. Peaks: {chips.topology(line['topology']).chip.source}.")
        told = {
            **line,
            "warnings": found.warnings,
            "exchanges": [one._asdict() for one in found.exchanges],
            "dearest": [one._asdict() for one in found.rows[:TOP]],
            "versions": measured_on.versions("jax", "jaxlib", "libtpu", "flax"),
            "script": cfg.script,
            "config": dataclasses.asdict(settings),
        }
        strict_json.append(folder / "plan.jsonl", told)
    lines = [json.loads(line) for line in (folder / "plan.jsonl").read_text().splitlines()]
    (folder / "plan.md").write_text(markdown(lines))
    runtime.say(f"page: {page.write(folder / 'plan.html')}")


def markdown(lines: list[dict[str, Any]]) -> str:
    """Tabulate all lines of a folder for a README."""
    names = (
        "network",
        "program",
        "chips",
        "images",
        "bound, ms",
        "compiler, ms",
        "images/s",
        "of peak",
        "memory, GB",
        "exchanged, MB",
    )
    rows = [names, ("---",) * len(names)]
    for line in lines:
        cycles = line["compiler's cycles ms"]
        rows.append(
            (
                f"{network_of(line['config'], line['script'])} {line['config'].get('dtype', '')}".strip(),
                line["program"],
                line["topology"],
                f"{line['images']:,}",
                f"{line['bound ms']:.1f}",
                "-" if cycles is None else f"{cycles:.1f}",
                f"{line['images/s at most']:,.0f}",
                f"{100 * line['share of peak at most']:.0f} %",
                f"{line['memory GB']:.2f}",
                ", ".join(f"{one['bytes'] / 1e6:.1f} {one['dtype']}" for one in line["exchanges"]) or "-",
            )
        )
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


if __name__ == "__main__":
    command_line.guarded(lambda: main(tyro.cli(Config, description=__doc__)))
