"""RobustBench's own classes, as an oracle; its attacks, which its package imports too, are not needed."""

import importlib
import sys
import types

import pytest
from torch_zoo import randomised


def architectures(name):
    """Import a module of robustbench.model_zoo.architectures, or of robustbench.model_zoo; skip without it."""
    for absent in ("autoattack", "autoattack.state"):
        if absent not in sys.modules:
            module = types.ModuleType(absent)
            module.AutoAttack = module.EvaluationState = object
            sys.modules[absent] = module
    try:
        return importlib.import_module(f"robustbench.model_zoo.{name}")
    except (
        ImportError,
        RuntimeError,
    ) as error:  # torchvision raises RuntimeError where it does not fit torch
        pytest.skip(f"robustbench cannot be imported: {error}")


def drawn(net, seed=0):
    """Draw every tensor, those of MeanSparse too, whose thresholds would hide it at 0."""
    import torch

    net = randomised(net, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if name.endswith("threshold"):
                value.uniform_(0.1, 0.5, generator=generator)
            elif value.ndim and name.endswith(
                ("alpha", "beta", "gamma", "gamma1", "gamma2", "gamma3", "temperature")
            ):
                value.uniform_(0.2, 0.8, generator=generator)
            elif name.endswith(("cls_token", "pos_embed")):
                value.normal_(0, 0.5, generator=generator)
    return net.eval()
