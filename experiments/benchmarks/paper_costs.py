"""Bound what the trainings of PAPERS.md cost on one chip, and write its column of costs.

    pip install -e '.[plan]'
    python -m experiments.benchmarks.paper_costs v5e

Every row whose script lists its programs is compiled by `benchmarks.plan`, for one chip and with the settings of its
command: minutes of a CPU for each program. What was found goes to --out, one line of JSON for each row, and from there
into the page. Rows whose programs were compiled already are not compiled again, so that a stopped run goes on; --redo
compiles them. A row whose programs cannot be compiled keeps the cost that it has, and its line says why.
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import tyro

from experiments.benchmarks import measured_on
from experiments.benchmarks.config import PaperCostsConfig as Config
from experiments.shared import command_line
from robustjax import runtime
from robustjax.runtime import strict_json

# Scripts whose run is mostly training, by programs that they list.
TRAININGS = (
    "ratio.compare",
    "ood_detection.train",
    "perturbation_sets.train",
    "perturbation_sets.train_classifier",
    "ood_to_id.train",
)
MEASURED = "CPU"  # in costs that were measured on one, which stay
ROW = re.compile(r"^\| `experiments\.(?P<command>[^`]+)` \| (?P<what>.*) \| (?P<data>.*) \| (?P<cost>.*) \|$")


def main(cfg: Config) -> int:
    """Compile what is missing, then write the column."""
    page, out = Path(cfg.page), Path(cfg.out)
    known = lines(out)
    for command in trainings(page.read_text()):
        there = "hours" in known.get(command, {})
        if cfg.only not in command or (there and not cfg.redo):
            continue
        line = {"command": command, "topology": f"{cfg.chip}:1x1", **planned(cfg, command)}
        strict_json.append(out, line)
        runtime.say(f"{command}: {said(line) or line['failed']}")
    page.write_text(with_costs(page.read_text(), lines(out)))
    return 0


def lines(out: Path) -> dict[str, dict[str, Any]]:
    """Read what was found, the last line of each command."""
    if not out.exists():
        return {}
    found = [json.loads(line) for line in out.read_text().splitlines()]
    return {line["command"]: line for line in found}


def trainings(text: str) -> list[str]:
    """List the commands of a page that train on accelerators, without `experiments.`."""
    rows = [ROW.match(line) for line in text.splitlines()]
    return [
        row["command"]
        for row in rows
        if row and MEASURED not in row["cost"] and row["command"].split()[0] in TRAININGS
    ]


def settings(command: str) -> tuple[str, str, list[str]]:
    """Take a command apart: script, preset, and settings as `benchmarks.plan` has them."""
    script, preset, *words = shlex.split(command)
    found: list[tuple[str, list[str]]] = []
    for word in words:
        if word.startswith("--"):
            found.append((word.removeprefix("--"), []))
        else:
            found[-1][1].append(word)
    given = [(name, values) for name, values in found if name != "out"]
    return script, preset, [f"{name}={','.join(values) or True}" for name, values in given]


def planned(cfg: Config, command: str) -> dict[str, Any]:
    """Plan the run of a command on one chip, in a process of its own."""
    script, preset, given = settings(command)
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        words = [script, preset, "--topology", f"{cfg.chip}:1x1", "--out", folder]
        words += ["--settings", *given] if given else []
        call = [sys.executable, "-m", "experiments.benchmarks.plan", *words]
        errors = within(call, cfg.limit)
        if errors is None:
            return {"failed": f"not compiled within {cfg.limit:.0f} s"}
        found = Path(folder) / "plan.jsonl"
        if not found.exists():
            return {"failed": (errors.strip().splitlines() or ["no message"])[-1]}
        programs = [json.loads(line) for line in found.read_text().splitlines()]
    kept = ("program", "images", "calls", "bound ms", "compiler's cycles ms", "hours at least", "memory GB")
    return {
        "hours": sum(one["hours at least"] for one in programs),
        "memory GB": max(one["memory GB"] for one in programs),
        "of GB": programs[0]["of GB"],
        "programs": [{name: one[name] for name in kept} for one in programs],
        "compiled in s": round(time.perf_counter() - begin),
        "versions": measured_on.versions("jax", "jaxlib", "libtpu", "flax"),
    }


def within(call: list[str], seconds: float) -> str | None:
    """Run a command and return what it says of errors; None if it took too long, and then no child of it goes on."""
    with subprocess.Popen(
        call, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            return process.communicate(timeout=seconds)[1]
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return None


def said(line: dict[str, Any]) -> str:
    """Say a line's cost as the page has it; nothing where it could not be compiled."""
    if "failed" in line:
        return ""
    chip, hours = line["topology"].partition(":")[0], line["hours"]
    sizes = ((10.0, f"{hours:,.0f} h"), (0.1, f"{hours:.1f} h"), (1 / 60, f"{60 * hours:.0f} minutes"))
    took = "at least " + next(
        (text for least, text in sizes if hours >= least), f"{3600 * hours:.1g} seconds"
    )
    over = line["memory GB"] > line["of GB"]
    lacks = f", which has {line['of GB']:.0f} of the {line['memory GB']:.0f} GB needed" if over else ""
    return f"{took} on one {chip}{lacks}"


def with_costs(text: str, known: dict[str, dict[str, Any]]) -> str:
    """Write the costs that are known into the page."""
    rows = []
    for line in text.splitlines():
        row = ROW.match(line)
        told = said(known[row["command"]]) if row and row["command"] in known else ""
        rows.append(f"{line[: line.rindex(' | ')]} | {told} |" if told else line)
    return "".join(f"{row}\n" for row in rows)


if __name__ == "__main__":
    command_line.guarded(lambda: main(tyro.cli(Config, description=__doc__)))
