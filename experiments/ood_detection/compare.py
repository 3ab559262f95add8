"""Compare six trainings on the embedded digits: does exposure to attacked OOD images make a detector robust?

    python -m experiments.ood_detection.compare digits --out runs/aloe

Digits 0 to 5 are ID. Networks are trained plainly (MSP), with OOD images (OE), adversarially (ADV), on attacked ID and
clean OOD images (AOE), on clean ID and attacked OOD images (ACET), and with both attacked (ALOE), three seeds at once
and at three radii. Then their score is attacked on both sides, on five OOD sets that none was trained on, by the score
itself and by the surrogates of the papers. A second comparison trains on near OOD images only, the digits 6 and 7, and
tests on 8 and 9.

The folder keeps every finished setting under cells/; start again with the same --out and only what is missing is
computed. report.html and results.json say what was expected and whether it holds.
"""

import pathlib

from experiments.ood_detection import compare_report
from experiments.ood_detection.compare_networks import SETS, Trainer
from experiments.ood_detection.compare_results import Arrays, Results
from experiments.ood_detection.config import COMPARE_PRESETS as PRESETS
from experiments.ood_detection.config import CompareConfig, Setting
from experiments.shared import command_line
from robustjax import runtime
from robustjax.runtime import strict_json
from robustjax.runtime.provenance import made_with, plain

MAY_DIFFER = ("out", "data_dir", "resamples")


def main(cfg: CompareConfig) -> int:
    """Train and attack what is missing, then report."""
    # --- train and attack ---
    settings, trainer = cfg.settings(), Trainer(cfg)
    found: dict[Setting, Arrays] = {}
    with runtime.Run(cfg.out, cfg, may_differ=MAY_DIFFER) as run, runtime.stopping() as stop:
        for i, setting in enumerate(settings):

            def make(i=i, setting=setting):
                runtime.say(f"setting {i + 1} of {len(settings)}: {setting.name}")
                state = trainer.fit(setting, stop)
                return None if state is None else trainer.attacked(state)

            arrays = run.cached(f"cells/{setting.name}", make)
            if arrays is None:
                runtime.say("stopped; the same command goes on with this setting")
                return stop.exit_code
            found[setting] = arrays

    # --- results and report ---
    results = Results(found, SETS, cfg.radii, cfg.near_eps, cfg.resamples)
    facts = {"made_with": made_with(), "config": plain(cfg), **results.facts()}
    strict_json.write(pathlib.Path(cfg.out) / "results.json", facts)
    for line in results.lines():
        runtime.say(line)
    report = compare_report.build(cfg, results).write(pathlib.Path(cfg.out) / "report.html")
    runtime.say(f"report: {report}")
    return 0


if __name__ == "__main__":
    command_line.script(main, PRESETS, __doc__)
