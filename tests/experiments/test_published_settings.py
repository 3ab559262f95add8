"""Presets that carry the settings of papers, beside a table of these settings, written down from their sources."""

import numpy as np
import pytest

from experiments.ood_detection.config import TRAIN_PRESETS
from experiments.ratio.config import PRESETS as RATIO


@pytest.mark.parametrize(
    ("cfg", "epochs", "drops"),
    [
        # RATIO: x 0.1 after epochs 100, 150 and 200 of 250; Restricted ImageNet 30 and 60 of 75.
        (RATIO["cifar10_paper"], 250, (100, 150, 200)),
        (RATIO["restricted_imagenet"], 75, (30, 60)),
        # ATOM: 50, 75 and 90 of 100.
        (TRAIN_PRESETS["cifar10_atom"], 100, (50, 75, 90)),
    ],
)
def test_the_rate_drops_at_the_published_epochs(cfg, epochs, drops):
    rates, epoch = cfg.optimizer.rates(cfg.updates), cfg.updates // epochs
    assert cfg.updates == epochs * epoch
    found = [float(rates(e * epoch + shift)) for e in drops for shift in (-1, 1)]
    expected = [0.1 * 0.1 ** (i + after) for i in range(len(drops)) for after in (0, 1)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert float(rates(0)) == float(rates(drops[0] * epoch - 1)) == np.float32(0.1)
