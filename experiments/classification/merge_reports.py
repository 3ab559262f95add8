"""Join attack reports on one network: other parts of the images, or other attacks on the same images.

    python -m experiments.classification.merge_reports --reports runs/a/1of2 runs/a/2of2 --out runs/a/all

The folders are those that classification.attack writes. Parts must have run the same attacks; with other attacks on the
same images an image counts as robust where no report broke it. Reports about different networks, data, norms or
radii are refused.
"""

import tyro

from experiments.classification.config import MergeConfig
from experiments.shared import command_line
from robustjax import runtime
from robustjax.evaluation.identity import difference
from robustjax.evaluation.results import merge
from robustjax.runtime import result_files
from robustjax.runtime.provenance import made_with


def main(cfg: MergeConfig) -> None:
    """Read, compare, join, write."""
    if not cfg.reports:
        raise ValueError("--reports is missing, must name one or more folders with results.npz")
    found = [result_files.read(folder) for folder in cfg.reports]
    first = found[0][1]
    for folder, (_, about) in zip(cfg.reports, found, strict=True):
        for name in ("network", "norm", "eps"):
            if about.get(name) != first.get(name):
                raise ValueError(
                    f"{folder} has {name} {about.get(name)}, must have {first.get(name)} like {cfg.reports[0]}"
                )
        if why := difference(first.get("identity"), about.get("identity")):
            raise ValueError(
                f"{folder} is about another network than {cfg.reports[0]}, of the same name: {why}"
            )
    joined = merge([results for results, _ in found])
    for row in result_files.rows(joined):
        runtime.say(f"{row['after']:>10}  {row['accuracy %']:6.2f} %  ({row['95 % interval']})")
    about = {name: first.get(name) for name in ("network", "norm", "eps", "identity")}
    path = result_files.write(
        cfg.out, joined, {**about, "merged": list(cfg.reports), "made_with": made_with()}
    )
    runtime.say(f"results: {path}")


if __name__ == "__main__":
    command_line.guarded(lambda: main(tyro.cli(MergeConfig, description=__doc__)))
