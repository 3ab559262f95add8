r"""Every kind of translator in front of the same classifier, under attacks that know nothing of it and such that do.

    python -m experiments.ood_to_id.compare digits --out runs/translator_zoo

pix2pix, pix2pixhd, dae (a denoising autoencoder), ddpm (a diffusion that purifies) and atop (pix2pix, fine-tuned
against attacks through it) are trained by train.py and judged by evaluate.py: behind the SSD gate,
where an attacker may go around the translator, and in front of every image (gate `always`), where he may not. ddpm is
random: it is attacked with a fixed draw and with the mean of many, and what was found is submitted several times.

The system is reconstructed from the abstract of arXiv:2202.08944 and from the papers of its parts. Every training and
every judgement is kept in a folder of its own, with a page; the same command goes on with what is missing.
"""

import dataclasses
import json
import pathlib
import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any

from experiments.ood_to_id import evaluate, train
from experiments.ood_to_id.networks import KINDS, Kind, Recipe
from experiments.shared import command_line
from robustjax import runtime
from robustjax.runtime.bar_charts import bars
from robustjax.runtime.provenance import made_with, plain
from robustjax.runtime.report import Report
from robustjax.runtime.stopping import stopping

GATES = ("SSD", "always")
OWN: dict[Kind, dict[str, Any]] = {
    "pix2pixhd": {"width": 8, "blocks": 3, "critic_width": 8, "epochs": 6},
    "dae": {"epochs": 24},
    "ddpm": {"width": 8, "epochs": 150, "steps": 5, "until": (0.1, 0.2, 0.3, 0.4, 0.5)},
    "atop": {"epochs": 6, "adversarial_epochs": 15},
}  # what a kind has instead of what the recipe says


@dataclasses.dataclass(frozen=True)
class Config:
    """Train and judge translators of all kinds."""

    kinds: tuple[Kind, ...] = KINDS
    dataset: str = "digits"
    recipe: Recipe = Recipe()  # of all kinds, but for what `OWN` says
    gates: tuple[evaluate.GateName, ...] = GATES
    images: int = 200  # test images
    steps: int = 100  # of attacks along gradients
    restarts: int = 1  # of cross-entropy through the translator and of selective PGD
    targets: int = 1  # of targeted DLR
    penalties: tuple[float, ...] = (15.0,)  # on the gate
    queries: int = 300  # of Square
    estimates: int = 0  # of SPSA
    passes: int = 20  # draws of ddpm in every gradient, where no gate can be bypassed
    averaged_steps: int = 10  # along such gradients
    resubmissions: int = 20
    batch_size: int = 100
    seed: int = 0
    out: str = "runs/translator_zoo"
    data_dir: str | None = None

    def check(self) -> None:
        """Refuse what cannot be meant, before any work."""
        for kind in self.kinds:
            recipe_of(self, kind).check()
        for gate in self.gates:
            if gate == "sibling":
                raise ValueError("--gates has 'sibling', which is for comparison only: see evaluate.py")
            judging_of(self, "pix2pix", gate).check()
        if not self.kinds or not self.gates:
            raise ValueError("--kinds and --gates: give at least one of each")


PRESETS = {
    "digits": Config(),
    "smoke": Config(
        kinds=("dae",), gates=("always",), recipe=train.PRESETS["smoke"].recipe, images=8, steps=2,
        targets=0, queries=1, passes=2, averaged_steps=2, resubmissions=2, batch_size=8,
    ),
}  # fmt: skip
MAY_DIFFER = ("out", "data_dir", "kinds", "gates")


def main(cfg: Config) -> int:
    """Do what is missing, then tabulate."""
    with runtime.Run(cfg.out, cfg, may_differ=MAY_DIFFER) as run, stopping() as stop:
        seconds: dict[str, float] = _read(run.folder / "seconds.json")
        work = list(jobs(cfg, run.folder))
        for i, (name, left, job) in enumerate(work):
            if left.exists() and name in seconds:
                continue
            runtime.say(f"part {i + 1} of {len(work)}: {name}")
            began = time.process_time()
            code = job()
            spent = seconds.get(name, 0.0) + time.process_time() - began
            seconds |= {name: spent}
            runtime.write_whole(run.folder / "seconds.json", json.dumps(seconds, indent=1) + "\n")
            if code or stop.requested:
                return code or stop.exit_code
    rows = table(cfg, run.folder)
    facts = {"made_with": made_with(), "config": plain(cfg), "rows": rows, "cpu_seconds": seconds}
    runtime.write_whole(run.folder / "results.json", json.dumps(facts, indent=1) + "\n")
    for row in rows:
        print(" | ".join(row.values()))
    print(f"CPU: {sum(seconds.values()) / 60:.1f} minutes for all parts")
    runtime.say(f"report: {page(cfg, rows, seconds).write(run.folder / 'report.html')}")
    return 0


def jobs(cfg: Config, folder: pathlib.Path) -> Iterator[tuple[str, pathlib.Path, Callable[[], int]]]:
    """List the parts in order: a name, what each leaves, and what makes it."""
    for kind in cfg.kinds:
        place = folder / kind
        yield f"{kind} trained", place / "system.json", lambda kind=kind: trained(cfg, folder, kind)
        for gate in cfg.gates:
            left = folder / f"{kind}_{gate}".replace(" ", "_") / "results.json"
            yield (
                f"{kind} judged, gate {gate}",
                left,
                lambda kind=kind, gate=gate: evaluate.main(judging_of(cfg, kind, gate)),
            )


def trained(cfg: Config, folder: pathlib.Path, kind: Kind) -> int:
    """Train a kind, with the classifier and the encoder of the first one."""
    source, place = folder / cfg.kinds[0] / "networks", folder / kind / "networks"
    for name in ("classifier", "encoder"):
        if kind != cfg.kinds[0] and not (place / name).exists():
            place.mkdir(parents=True, exist_ok=True)
            shutil.copytree(source / name, place / name)
    return train.main(
        train.Config(
            dataset=cfg.dataset, kind=kind, recipe=recipe_of(cfg, kind), judged=cfg.images, seed=cfg.seed,
            out=str(folder / kind), data_dir=cfg.data_dir,
        )
    )  # fmt: skip


def recipe_of(cfg: Config, kind: Kind) -> Recipe:
    """Say how a kind is trained; sizes that were given on the command line hold for all kinds."""
    default = Recipe()
    own = {
        name: value
        for name, value in OWN.get(kind, {}).items()
        if getattr(cfg.recipe, name) == getattr(default, name)
    }
    return dataclasses.replace(cfg.recipe, **own)


def judging_of(cfg: Config, kind: Kind, gate: evaluate.GateName) -> evaluate.Config:
    """Say how a kind is judged: by the mean of draws only where nothing is easier, which is through T itself."""
    folder = pathlib.Path(cfg.out)
    # Searches end when all of a batch is broken, and those through many draws are dear.
    batch_size = min(cfg.batch_size, 40) if kind == "ddpm" and gate == "always" else cfg.batch_size
    return evaluate.Config(
        run=str(folder / kind), gate=gate, images=cfg.images, steps=cfg.steps, restarts=cfg.restarts,
        targets=cfg.targets, penalties=cfg.penalties, queries=cfg.queries, estimates=cfg.estimates,
        passes=cfg.passes if gate == "always" else 0, averaged_only=("A1",), averaged_steps=cfg.averaged_steps,
        resubmissions=cfg.resubmissions, batch_size=batch_size, seed=cfg.seed, data_dir=cfg.data_dir,
        only=("FGSM", "PGD", "APGD", "A1", "A2", "A3", "A4", "A5", "A7"),
        out=str(folder / f"{kind}_{gate}".replace(" ", "_")),
    )  # fmt: skip


# --- what came of it ------------------------------------------------------------------------------------


def table(cfg: Config, folder: pathlib.Path) -> list[dict[str, str]]:
    """Tabulate all kinds and gates, an attack on a random translator once per way to draw."""
    rows = []
    for kind in cfg.kinds:
        for gate in cfg.gates:
            facts = _read(folder / f"{kind}_{gate}".replace(" ", "_") / "results.json")
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


def strongest(attacks: list[dict[str, Any]]) -> str:
    """Name the attack that alone left least, and what it left."""
    least = min(attacks, key=lambda row: float(row["accuracy %"].split()[0]))
    return f"{least['attack']} ({least['accuracy %'].split()[0]})"


def page(cfg: Config, rows: list[dict[str, str]], seconds: dict[str, float]) -> Report:
    """Write the page."""
    page = Report("Translators of every kind under attacks that know them", cfg)
    page.text(
        "Static attacks know the classifier alone; adaptive ones know the gate and the translator, and are judged by "
        "the hard defence at every iterate. Behind a gate an attacker may go around the translator; with the gate "
        "`always` every image is translated. Reconstructed from the abstract of arXiv:2202.08944; its tables "
        "were not available, and the numbers are our own."
    )
    page.table(
        rows, caption=f"The first {cfg.images} test images, linf {cfg.recipe.eps:g}; 95 % Clopper-Pearson."
    )
    for gate in cfg.gates:
        some = [row for row in rows if row["gate"] == gate and not row["draws"].startswith("mean")]
        names = ("clean %", "static, TM0 %", "adaptive, worst case %")
        series = {name: [_numbers(row[name]) for row in some] for name in names}
        picture = bars([row["translator"] for row in some], series, ylabel="accuracy %")
        page.picture(picture, caption=f"Gate: {gate}; ddpm with a fixed draw.", name=f"gate_{gate[:3]}")
    page.table(
        [{"part": name, "CPU seconds": f"{spent:.0f}"} for name, spent in seconds.items()],
        caption="What it cost.",
    )
    page.scope(
        attacked=["the hard defence: classifier, gate and translator together"],
        attacks=[f"see the pages in the folders; {cfg.steps} steps, {cfg.queries} queries of Square"],
        not_attacked=["other norms and radii", "decision-based attacks", "translators trained longer"],
    )
    return page


def _numbers(text: str) -> tuple[float, float, float]:
    value, low, _, high = text.replace("(", "").replace(")", "").split()
    return float(value), float(low), float(high)


def _read(path: pathlib.Path) -> Any:
    return json.loads(path.read_text()) if path.exists() else {}


if __name__ == "__main__":
    command_line.script(main, PRESETS, __doc__)
