r"""Attack a trained translation system, or any purifier behind any gate, and say what may be printed of it.

    python -m experiments.ood_to_id.evaluate digits --run runs/translator --out runs/translator_evaluated
    python -m experiments.ood_to_id.evaluate standard --run runs/translator_mnist --source runs/another --out runs/mnist
    python -m experiments.ood_to_id.evaluate standard --run None \
        --function mypackage.net:defence --dataset mnist --eps 0.3 --out runs/mine

--run is a folder of ood_to_id.train, whose encoder, classifier and --gate decide what is translated; --source another
one, for attacks that transfer. --function names a function without arguments that returns a
`robustjax.ood.translate.Defence` of your own: f, T and a gate with its threshold, in JAX. Static attacks (TM0), queries
(TM1), f and T known (TM2) and everything known (TM3) are run, and every point is classified by the hard defence; then
radius 1. A robust accuracy is printed only if the evaluation supports it, and the line says why not otherwise.

--gate always translates every image, so that what is left is the translator's own; --gate grouped compares, and only
compares, one decision for ten images as related code makes it. A table of its own says what the gate is worth if images
are refused instead of translated.

Random translators (ddpm) are attacked with a fixed draw, and with the mean of --samples draws in every gradient
(--averaged-only and --averaged-steps say what of it is affordable); what was found is then submitted --resubmissions
times. Every attack is kept when it is done: the same command goes on.
"""

import pathlib

from experiments.ood_to_id import evaluate_report
from experiments.ood_to_id.config import EVALUATE_PRESETS as PRESETS
from experiments.ood_to_id.config import EvaluateConfig
from experiments.ood_to_id.evaluation import Comparison, evaluate_system, write_results
from experiments.ood_to_id.training import Stopped
from experiments.shared import command_line
from robustjax import runtime


def main(cfg: EvaluateConfig) -> int:
    """Attack, attack by attack, then report."""
    # --- attacks ---
    try:
        found = evaluate_system(cfg)
    except Stopped as stopped:
        return stopped.exit_code

    # --- results ---
    write_results(cfg, evaluate_report.facts(cfg, found))
    for line in evaluate_report.lines(found):
        print(line)

    # --- report ---
    if isinstance(found, Comparison):
        report = evaluate_report.comparison_report(cfg, found)
    else:
        report = evaluate_report.evaluation_report(cfg, found)
    runtime.say(f"report: {report.write(pathlib.Path(cfg.out) / 'report.html')}")
    return 0


if __name__ == "__main__":
    command_line.script(main, PRESETS, __doc__)
