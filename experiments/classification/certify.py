r"""Certify a classifier by bounds on its logits, and attack it: between both lies what is true, over the radius.

    python -m experiments.classification.train digits --loss ibp --attack.eps 0.1 --warmup 0.5 --out runs/ibp
    python -m experiments.classification.certify standard --source.run runs/ibp --eps 0.1 --radii 4
    python -m experiments.classification.certify standard --source.run runs/ibp --methods ibp crown alpha-crown
    python -m experiments.classification.certify standard --source.run runs/ibp --budget 60

At each radius the methods take the images that none before certified, from the cheapest to the tightest; an image is
tried at a radius only if it was certified at the one before. The attack is AutoAttack's APGD on cross-entropy and at 9
targets, and Square with --queries. Certified <= true <= attacked: what is neither certified nor broken is undecided,
and goes to branch and bound for --budget seconds an image: on small networks that decides most. A killed run goes on
where it was when started again with the same --out. The folder gets results.json, report.html, figures/, and what was
found for every image, in certified_*.npz, attacked_*.npz and branch_*.jsonl.
"""

import pathlib
from functools import partial

import jax
import numpy as np

from experiments.classification import certify_branch, certify_report
from experiments.classification.certify_report import Bracket
from experiments.classification.config import CERTIFY_PRESETS as PRESETS
from experiments.classification.config import CertifyConfig
from experiments.shared import command_line, network_source
from robustjax import runtime
from robustjax.api_certify import certify_bounds
from robustjax.attacks import autoattack
from robustjax.attacks.case import Case
from robustjax.data import Split
from robustjax.evaluation import suite
from robustjax.evaluation.identity import identity
from robustjax.runtime.attack_progress import attack_progress
from robustjax.runtime.provenance import digest
from robustjax.runtime.snapshot import Snapshot
from robustjax.threats import Threat
from robustjax.types import Network, frozen


def main(cfg: CertifyConfig) -> None:
    """Certify, attack, tabulate, draw."""
    # --- network and images ---
    it = network_source.open_network(cfg.source, cfg.images, cfg.seed)
    test, network = it.test, it.network
    out = pathlib.Path(
        cfg.out or pathlib.Path(cfg.source.run or "") / "certify" / f"{cfg.norm}_{cfg.eps:.4g}"
    )

    # What was found for another network in this folder, such as one trained since, is not taken for this one's.
    who = digest({"identity": identity(network, test.image, test.index)})

    with runtime.Run(out, cfg, may_differ=("out", "batch_size")) as run:
        # --- certificates, from the cheapest method to the tightest ---
        certified = run.cached(f"certified_{who}", lambda: certificates(cfg, network, test))
        # --- attack ---
        attacked = run.cached(f"attacked_{who}", lambda: attack(cfg, network, test, out / f"progress_{who}"))

        # --- branch and bound on the rest ---
        tried, robust = [], attacked["robust"]
        if cfg.budget:
            journal = out / f"branch_{who}.jsonl"
            tried = certify_branch.decide(cfg, network, test, certified["certified"][-1], robust, journal)
            certified, robust = certify_branch.joined(cfg, tried, certified, robust)

        # --- what lies between ---
        found = Bracket(cfg.grid(), attacked["clean"], certified["certified"], robust)
        require_consistent(found)
        certify_report.say(cfg, found)
        page = certify_report.write(cfg, network, test, found, certified["seconds"], tried, it.flags, out)
        runtime.say(f"report: {page}")


def certificates(cfg: CertifyConfig, network: Network, test: Split) -> dict[str, np.ndarray]:
    """Try every method at every radius on what is still worth trying."""
    radii, n = cfg.grid(), len(test.label)
    certified, seconds = np.zeros((len(cfg.methods), len(radii), n), bool), np.zeros(len(cfg.methods))
    able = np.ones(n, bool)  # certified at the radius before
    for r, eps in enumerate(radii):
        sure = np.zeros(n, bool)
        for m, method in enumerate(cfg.methods):
            rows = np.flatnonzero(able & ~sure)
            if len(rows):
                done = certify_bounds(
                    network, test.image[rows], test.label[rows], norm=cfg.norm, eps=float(eps), method=method,
                    outward=cfg.outward, batch_size=cfg.batch_size,
                )  # fmt: skip
                sure[rows] = done.certificate.label == test.label[rows]
                seconds[m] += done.seconds
            certified[m, r] = sure
            runtime.say(f"{cfg.norm} {eps:.4g}  {method}: {100 * sure.mean():.1f} % certified")
        able = sure
    return {"certified": certified, "seconds": seconds}


def attack(cfg: CertifyConfig, network: Network, test: Split, place: pathlib.Path) -> dict[str, np.ndarray]:
    """Attack all images at every radius; an image that is broken stays so at larger ones."""
    cases = partial(_cases, cfg=cfg, classes=len(test.info.classes))
    evaluate = suite.over(partial(frozen, network.model), cases, batch_size=512)
    report, robust = None, []
    for i, eps in enumerate(cfg.grid()):
        memory = Snapshot(place.with_name(f"{place.name}_{i}.npz"))
        report = evaluate(
            jax.random.key(cfg.seed), test.image, test.label, Threat(cfg.norm, float(eps)), network.params,
            network.state, index=test.index, given=report, memory=memory, progress=attack_progress(),
        )  # fmt: skip
        robust.append(report.robust)
    for left in place.parent.glob("progress_*.npz"):
        left.unlink()
    return {
        "clean": report.clean == report.label if report else np.zeros(0, bool),
        "robust": np.stack(robust),
    }


def _cases(threat: Threat, *, cfg: CertifyConfig, classes: int) -> tuple[Case, ...]:
    return (
        autoattack.apgd_ce(threat, classes=classes, steps=cfg.steps),
        autoattack.apgd_targeted(threat, classes=classes, steps=cfg.steps),
        autoattack.random_search(threat, queries=cfg.queries),
    )


def require_consistent(found: Bracket) -> None:
    """Refuse a result in which an attack breaks what was certified.

    Raises:
      RuntimeError: if there is one, which would be a bug.
    """
    broken = found.certified[-1] & ~found.robust
    if broken.any():
        r, image = np.argwhere(broken)[0]
        raise RuntimeError(
            f"certify: test image {image} is certified and broken at radius {found.radii[r]:.4g}; this is a bug, "
            "please report it"
        )


if __name__ == "__main__":
    command_line.script(main, PRESETS, __doc__)
