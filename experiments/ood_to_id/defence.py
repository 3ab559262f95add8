"""Does translating OOD images back to ID images make a classifier robust? The whole question on the embedded digits.

    python -m experiments.ood_to_id.defence digits --out runs/translation

For every seed a classifier, a self-supervised encoder for the gate (SSD), two translators (pix2pix, trained on
adversarial images with and without darker and sharper ones) and a classifier trained against PGD; then a strict
evaluation: are adversarial images OOD, beside noise of the same size; attacks that know nothing of the defence beside
those that know all of it; radii up to 1; another gate; natural shifts. The adaptive number is the headline. Nothing
is printed as robust accuracy that the evaluation does not support.

The system is reconstructed from the abstract of arXiv:2202.08944 and from the papers of its parts: the tables of that
paper were not available, and the column `paper` of the tables stays n/a. The folder keeps every network and every
finished part; start again with the same --out and only what is missing is computed.
"""

import time

import numpy as np

from experiments.ood_to_id.config import DEFENCE_MAY_DIFFER, DefenceConfig
from experiments.ood_to_id.config import DEFENCE_PRESETS as PRESETS
from experiments.ood_to_id.defence_measurements import PARTS, Measurements
from experiments.ood_to_id.defence_report import defence_report
from experiments.ood_to_id.defence_results import Results
from experiments.shared import command_line
from robustjax import runtime
from robustjax.evaluation.defence_results import Arrays
from robustjax.runtime import strict_json
from robustjax.runtime.provenance import made_with, plain
from robustjax.runtime.stopping import stopping


def main(cfg: DefenceConfig) -> int:
    """Train and attack what is missing, then report."""
    began = time.process_time()
    # --- train and attack, part by part ---
    parts: dict[str, Arrays] = {}
    with runtime.Run(cfg.out, cfg, may_differ=DEFENCE_MAY_DIFFER) as run, stopping() as stop:
        measurements = Measurements(cfg, run.folder)
        work = [(name, seed) for name in PARTS for seed in range(cfg.seeds)]

        def timed(i: int, name: str, seed: int) -> Arrays:
            runtime.say(f"part {i + 1} of {len(work)}: {name}_{seed}")
            start = time.process_time()
            arrays: Arrays = getattr(measurements, name)(seed)
            return arrays | {"cpu_seconds": np.array(time.process_time() - start)}

        for i, (name, seed) in enumerate(work):
            found = run.cached(f"parts/{name}_{seed}", lambda i=i, name=name, seed=seed: timed(i, name, seed))
            assert found is not None
            parts[f"{name}_{seed}"] = found
            if stop.requested:
                runtime.say("stopped; the same command goes on with the next part")
                return stop.exit_code

    # --- results ---
    headlines = [measurements.headline(seed, parts) for seed in range(cfg.seeds)]
    results = Results(parts, cfg, headlines)
    facts = {"made_with": made_with(), "config": plain(cfg), **results.facts()}
    shown = measurements.images_in_words()
    facts |= {"images": shown, "indices": plain(measurements.sets(0).numbers)}
    strict_json.write(run.folder / "results.json", facts)
    for line in results.lines():
        runtime.say(line)
    runtime.say(
        f"CPU: {results.seconds():.0f} s for all parts, {time.process_time() - began:.0f} s this time"
    )

    # --- report ---
    report = defence_report(cfg, results)
    report.text(f"Images: {shown}.")
    runtime.say(f"report: {report.write(run.folder / 'report.html')}")
    return 0


if __name__ == "__main__":
    command_line.script(main, PRESETS, __doc__)
