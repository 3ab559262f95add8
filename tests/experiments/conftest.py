"""One run folder for all tests that only read it."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import scripts


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """Train the smoke preset once per worker."""
    out = tmp_path_factory.mktemp("runs") / "smoke"
    done = scripts.run("classification.train", "smoke", "--out", out)
    assert done.returncode == 0, done.stderr
    return out
