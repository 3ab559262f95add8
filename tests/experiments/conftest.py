"""One run folder for all tests that only read it."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import scripts

# A test that needs one of these waits for a training, or for a whole script.
RUNS = {"trained", "system", "random_system", "runs", "learned_set", "finished", "whole"}


def pytest_collection_modifyitems(items):
    """Leave what is made by whole scripts to `make test-all`."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent) and RUNS.intersection(item.fixturenames):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """Train the smoke preset once per worker."""
    out = tmp_path_factory.mktemp("runs") / "smoke"
    done = scripts.run("classification.train", "smoke", "--out", out)
    assert done.returncode == 0, done.stderr
    return out
