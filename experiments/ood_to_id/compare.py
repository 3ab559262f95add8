r"""Every kind of translator in front of the same classifier, under attacks that know nothing of it and such that do.

    python -m experiments.ood_to_id.compare digits --out runs/translators

pix2pix, pix2pixhd, dae (a denoising autoencoder), ddpm (a diffusion that purifies) and atop (pix2pix, fine-tuned
against attacks through it) are trained as by ood_to_id.train and attacked as by ood_to_id.evaluate: behind the SSD
gate, where an attacker may go around the translator, and in front of every image (gate `always`), where he may not.
ddpm is random: it is attacked with a fixed draw and with the mean of many, and what was found is submitted several
times.

The system is reconstructed from the abstract of arXiv:2202.08944 and from the papers of its parts. Every training and
every evaluation is kept in a folder of its own, with a report; the same command goes on with what is missing.
"""

import json
import pathlib
import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any

from experiments.ood_to_id import evaluate_report
from experiments.ood_to_id.config import COMPARE_MAY_DIFFER, CompareConfig, GateName, folder_name
from experiments.ood_to_id.config import COMPARE_PRESETS as PRESETS
from experiments.ood_to_id.evaluation import Evaluation, evaluate_system, write_results
from experiments.ood_to_id.train_report import training_report
from experiments.ood_to_id.training import Stopped, train_system
from experiments.shared import command_line
from robustjax import runtime
from robustjax.runtime import strict_json
from robustjax.runtime.bar_charts import bars
from robustjax.runtime.provenance import made_with, plain
from robustjax.runtime.report import Report
from robustjax.runtime.stopping import stopping

Part = tuple[str, pathlib.Path, Callable[[], None]]  # a name, the file it leaves, what makes it


def main(cfg: CompareConfig) -> int:
    """Do what is missing, then tabulate."""
    # --- train and attack ---
    with runtime.Run(cfg.out, cfg, may_differ=COMPARE_MAY_DIFFER) as run, stopping() as stop:
        seconds: dict[str, float] = _read(run.folder / "seconds.json")
        work = list(parts(cfg, run.folder))
        for i, (name, left, make) in enumerate(work):
            if left.exists() and name in seconds:
                continue
            runtime.say(f"part {i + 1} of {len(work)}: {name}")
            began, code = time.process_time(), 0
            try:
                make()
            except Stopped as stopped:
                code = stopped.exit_code
            seconds |= {name: seconds.get(name, 0.0) + time.process_time() - began}
            strict_json.write(run.folder / "seconds.json", seconds)
            runtime.release_programs()
            if code or stop.requested:
                return code or stop.exit_code

    # --- results ---
    rows = table(cfg, run.folder)
    shown = images_in_words(cfg, run.folder)
    facts = {"images": shown, "rows": rows, "cpu_seconds": seconds}
    facts = {"made_with": made_with(), "config": plain(cfg), **facts}
    strict_json.write(run.folder / "results.json", facts)
    for row in rows:
        print(" | ".join(row.values()))
    print(f"CPU: {sum(seconds.values()) / 60:.1f} minutes for all parts")

    # --- report ---
    report = comparison_report(cfg, rows, seconds, shown)
    runtime.say(f"report: {report.write(run.folder / 'report.html')}")
    return 0


# --- parts ----------------------------------------------------------------------------------------------


def parts(cfg: CompareConfig, folder: pathlib.Path) -> Iterator[Part]:
    """List the parts in order."""
    for kind in cfg.kinds:
        place = folder / folder_name(kind)
        yield f"{kind} trained", place / "system.json", lambda kind=kind: train(cfg, folder, kind)
        for gate in cfg.gates:
            left = folder / folder_name(kind, gate) / "results.json"
            yield f"{kind} attacked, gate {gate}", left, lambda kind=kind, gate=gate: attack(cfg, kind, gate)


def train(cfg: CompareConfig, folder: pathlib.Path, kind: str) -> None:
    """Train a kind, with the classifier and the encoder of the first one."""
    source, place = folder / folder_name(cfg.kinds[0]) / "networks", folder / folder_name(kind) / "networks"
    for name in ("classifier", "encoder"):
        if kind != cfg.kinds[0] and not (place / name).exists():
            place.mkdir(parents=True, exist_ok=True)
            shutil.copytree(source / name, place / name)
    settings = cfg.training(kind)
    trained = train_system(settings)
    training_report(settings, trained).write(trained.folder / "report.html")


def attack(cfg: CompareConfig, kind: str, gate: GateName) -> None:
    """Attack a kind behind a gate."""
    settings = cfg.evaluation(kind, gate)
    found = evaluate_system(settings)
    assert isinstance(found, Evaluation)  # the gate that is only compared was refused
    write_results(settings, evaluate_report.facts(settings, found))
    report = evaluate_report.evaluation_report(settings, found)
    report.write(pathlib.Path(settings.out) / "report.html")


# --- tables and report ----------------------------------------------------------------------------------


def table(cfg: CompareConfig, folder: pathlib.Path) -> list[dict[str, str]]:
    """Tabulate all kinds and gates, an attack on a random translator once per way to draw."""
    rows = []
    for kind in cfg.kinds:
        for gate in cfg.gates:
            facts = _read(folder / folder_name(kind, gate) / "results.json")
            for mode, main_rows in facts["main"].items():
                found = {row["quantity"].split()[0]: row["found %"] for row in main_rows}
                found["clean"] = main_rows[1]["found %"]
                attacks = facts["attacks"][mode]
                ways = [row["attack"].split()[0] for row in attacks if row["threat model"] != "TM0"]
                rows.append(
                    {
                        "translator": kind, "gate": gate, "draws": mode,
                        "clean routed %": main_rows[2]["found %"].split()[0], "clean %": found["clean"],
                        "static, TM0 %": found.get("TM0", "-"), "adaptive, worst case %": found["TM3"],
                        "strongest attack": strongest(attacks), "attacked with": " ".join(dict.fromkeys(ways)),
                    }
                )  # fmt: skip
                if votes := facts["submissions"].get(mode):
                    worst = votes[-1]
                    rows[-1] |= {"majority of draws, worst case %": list(worst.values())[-1]}
    columns = dict.fromkeys(name for row in rows for name in row)
    return [{name: row.get(name, "-") for name in columns} for row in rows]


def images_in_words(cfg: CompareConfig, folder: pathlib.Path) -> str:
    """Say which test images were attacked, as the evaluations do; the folders may hold earlier ones, which do not."""
    found = (_read(folder / folder_name(k, g) / "results.json") for k in cfg.kinds for g in cfg.gates)
    return "; ".join(dict.fromkeys(facts.get("images", "not recorded") for facts in found))


def strongest(attacks: list[dict[str, Any]]) -> str:
    """Name the attack that alone left least, and what it left."""
    least = min(attacks, key=lambda row: float(row["accuracy %"].split()[0]))
    return f"{least['attack']} ({least['accuracy %'].split()[0]})"


def comparison_report(
    cfg: CompareConfig, rows: list[dict[str, str]], seconds: dict[str, float], shown: str
) -> Report:
    """Write the report; `shown` says which images were attacked."""
    report = Report("Translators of every kind under attacks that know them", cfg)
    report.text(
        "Static attacks know the classifier alone; adaptive ones know the gate and the translator, and keep points by "
        "the hard defence at every iterate. Behind a gate an attacker may go around the translator; with the gate "
        "`always` every image is translated. Reconstructed from the abstract of arXiv:2202.08944; its tables "
        "were not available, and the numbers are our own."
    )
    report.text(f"Images: {shown}.")
    report.table(rows, caption=f"{cfg.images} test images, linf {cfg.recipe.eps:g}; 95 % Clopper-Pearson.")
    for gate in cfg.gates:
        some = [row for row in rows if row["gate"] == gate and not row["draws"].startswith("mean")]
        names = ("clean %", "static, TM0 %", "adaptive, worst case %")
        series = {name: [_numbers(row[name]) for row in some] for name in names}
        picture = bars([row["translator"] for row in some], series, ylabel="accuracy %")
        report.picture(picture, caption=f"Gate: {gate}; ddpm with a fixed draw.", name=f"gate_{gate[:3]}")
    report.table(
        [{"part": name, "CPU seconds": f"{spent:.0f}"} for name, spent in seconds.items()],
        caption="CPU seconds of every part.",
    )
    report.scope(
        attacked=["the hard defence: classifier, gate and translator together"],
        attacks=[f"see the reports in the folders; {cfg.steps} steps, {cfg.queries} queries of Square"],
        not_attacked=["other norms and radii", "decision-based attacks", "translators trained longer"],
    )
    return report


def _numbers(text: str) -> tuple[float, float, float]:
    value, low, _, high = text.replace("(", "").replace(")", "").split()
    return float(value), float(low), float(high)


def _read(path: pathlib.Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


if __name__ == "__main__":
    command_line.script(main, PRESETS, __doc__)
