"""Evaluate detectors of OOD images, and attack their scores on both sides.

    python -m experiments.ood_detection.evaluate standard --runs runs/fashion_aloe --ood-sets kmnist --out runs/eval_ood
    python -m experiments.ood_detection.evaluate atom --source.checkpoint net.pt --source.architecture resnet18
        --source.normalisation cifar10 --source.dataset cifar10 --ood-sets dtd --out runs/net_ood

Networks are run folders of ood_detection.train and classification.train, a PyTorch checkpoint or any function. Every
detector is evaluated on every OOD set: clean, with ID images, OOD images or both attacked at every radius, under the
worst of all corruptions (--corruption), and around that (--composition). --certify also bounds MSP over each radius;
--sigma also smooths every score by the median of noisy copies, which certifies any network in l2.

The folder holds every score in OpenOOD's form, scores/NETWORK/DETECTOR/CASE/SET.npz with conf, pred and label; every
attack image by image, attacks/NETWORK/DETECTOR/CASE/results.npz; metrics.json; and report.html. Killed at any moment
it goes on in the middle of an attack. More networks (another --source or --runs on the same ID data), sets, detectors,
attacks and radii may join a folder later. Where there are test images only, detectors that are fitted are refused.
"""

import pathlib

from experiments.ood_detection import evaluate_report, scoring
from experiments.ood_detection.config import EVALUATE_PRESETS as PRESETS
from experiments.ood_detection.config import EvaluateConfig
from experiments.ood_detection.networks import evaluated
from experiments.shared import command_line
from robustjax import runtime
from robustjax.runtime.provenance import made_with

MAY_DIFFER = (
    "out", "data_dir", "resamples", "runs", "source", "ood_sets", "detectors", "attacks", "radii", "corruption",
    "composition", "certify", "batch_size", "smooth_radii", "masking_checks",
)  # fmt: skip


def main(cfg: EvaluateConfig) -> int:
    """Compute the scores that are missing, then the metrics and the report."""
    # --- networks and data ---
    runtime.one_device_per_core()
    it = evaluated(cfg)
    cfg = cfg.with_radii_of(it.dataset)
    images = scoring.load(cfg, it.dataset, it.test)
    scoring.require(cfg, it.networks, images)

    # --- scores ---
    flags = {}
    with runtime.Run(cfg.out, cfg, may_differ=MAY_DIFFER) as run:
        for network in it.networks:
            scoring.same_network(run, network, it.test)
        corrupted = scoring.Corrupted(cfg, images.sets)
        jobs = [(network, name) for network in it.networks for name in cfg.detectors]
        for _, (network, name) in runtime.progress(jobs, total=len(jobs), label="detectors"):
            one = scoring.Scoring(cfg, run, images, network, name, corrupted)
            one.all()
            flags[network.title, name] = one.flags()

    # --- metrics and report ---
    evaluate_report.write(cfg, it.networks, images.sets, flags, pathlib.Path(cfg.out), made_with())
    return 0


if __name__ == "__main__":
    command_line.script(main, PRESETS, __doc__)
