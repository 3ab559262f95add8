"""Join attack reports on one network: other parts of the images, or other attacks on the same images.

    python -m experiments.classification.merge_reports --reports runs/a/1of2 runs/a/2of2 --out runs/a/all

The folders are those that classification.attack writes. Parts must have run the same attacks; with other attacks on the
same images an image counts as robust where no report broke it. Reports about different networks, data, norms or
radii are refused.
"""

import dataclasses

import tyro

from experiments.shared import command_line
from robustjax import runtime
from robustjax.evaluation.verdicts import merge
from robustjax.runtime import result_files
from robustjax.runtime.provenance import made_with


@dataclasses.dataclass(frozen=True)
class Config:
    """Join attack reports."""

    reports: tuple[str, ...] = ()  # folders with verdicts.npz
    out: str = "runs/merged"


def main(cfg: Config) -> None:
    """Read, compare, join, write."""
    if not cfg.reports:
        raise ValueError("--reports is missing, must name one or more folders with verdicts.npz")
    found = [result_files.read(folder) for folder in cfg.reports]
    subject = found[0][1]
    for folder, (_, about) in zip(cfg.reports, found, strict=True):
        for name in ("subject", "norm", "eps"):
            if about.get(name) != subject.get(name):
                raise ValueError(
                    f"{folder} has {name} {about.get(name)}, must have {subject.get(name)} like {cfg.reports[0]}"
                )
    joined = merge([verdicts for verdicts, _ in found])
    for row in result_files.rows(joined):
        runtime.say(f"{row['after']:>10}  {row['accuracy %']:6.2f} %  ({row['95 % interval']})")
    about = {name: subject.get(name) for name in ("subject", "norm", "eps")}
    path = result_files.write(
        cfg.out, joined, {**about, "merged": list(cfg.reports), "made_with": made_with()}
    )
    runtime.say(f"verdicts: {path}")


if __name__ == "__main__":
    command_line.guarded(lambda: main(tyro.cli(Config, description=__doc__)))
