"""The Slurm file starts the script it is given on all tasks, and asks to be started again where that helps."""

import os
import subprocess

import pytest
import scripts


@pytest.mark.parametrize(
    ("code", "again"), [(0, False), (2, False), (75, True), (134, True), (143, True), (137, True)]
)
def test_it_is_queued_again_when_a_run_can_go_on(code, again, tmp_path):
    for name, leave in (("srun", code), ("scontrol", 0)):
        tool = tmp_path / name
        tool.write_text(f'#!/bin/sh\necho "{name} $@" >> {tmp_path}/said\nexit {leave}\n')
        tool.chmod(0o755)
    done = subprocess.run(
        [
            "bash",
            scripts.ROOT / "experiments/shared/slurm.sbatch",
            "classification.train",
            "cifar10",
            "--out",
            "runs/a b",
        ],
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "17"},
    )
    said = (tmp_path / "said").read_text().splitlines()
    assert done.returncode == code
    assert said[0].endswith("python -m experiments.classification.train cifar10 --out runs/a b --distributed")
    assert said[1:] == (["scontrol requeue 17"] if again else [])
