"""robustjax: robustness research in JAX, as pure functions.

    robustjax.evaluate(network, x, y, norm="linf", eps=8 / 255)    # a table: clean, per attack, robust, flags

Everything is an objective (Array[b ...] -> Array[b], to be maximised) over a perturbation set (a ball and a
box), and solvers that know nothing else. The architecture, floor by floor; imports go down only:

```
7  experiments/   scripts: a folder per topic
6  api  api_ood  api_certify   the front door: evaluate, evaluate_ood, certify, certify_bounds
   catalog/       from names to factories: models, losses, attacks, scores, OOD sets
5  runtime/       the impure edge: devices, checkpoints, records, figures, reports
4  training       TrainState, start, step            optimizers   the field's optimisers and schedules
   staged_training  whole epochs as one compiled loop, exact to resume
   evaluation/    functions and suites of attacks over a data set
   analysis/      what to make of the numbers
3  losses/        training objectives, one file per paper
   perturbations/ rotations, shifts, corruptions: sets searched through a decoder
   ood/           detectors of OOD inputs, their metrics, and attacks on their scores
   smoothing/     certificates by noise, in pixels or in the parameters of a set
   bounds/        certificates by intervals and linear relaxation: how sure a network can be made over a threat
2  attacks/       solvers: they know a threat and a function, never a network
1  threats        norm balls with a box, and l0: a few pixels
   models/        networks behind `types.Model`
   data/          data sets, streams, augmentation, OOD images
0  types  numerics  logit  logistic_regression  checks  binomial  traced  l0
```
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robustjax.api import Evaluation as Evaluation
    from robustjax.api import evaluate as evaluate
    from robustjax.api_certify import Certification as Certification
    from robustjax.api_certify import certify as certify
    from robustjax.api_certify import certify_bounds as certify_bounds
    from robustjax.api_ood import OodEvaluation as OodEvaluation
    from robustjax.api_ood import evaluate_ood as evaluate_ood
    from robustjax.models.adapters import from_equinox as from_equinox
    from robustjax.models.adapters import from_flax as from_flax
    from robustjax.models.adapters import from_haiku as from_haiku
    from robustjax.models.adapters import from_nnx as from_nnx
    from robustjax.models.adapters import from_torch as from_torch
    from robustjax.threats import Threat as Threat
    from robustjax.types import Network as Network

__version__ = "0.1.0"
_HOMES = {
    "Evaluation": "api",
    "evaluate": "api",
    "evaluate_ood": "api_ood",
    "OodEvaluation": "api_ood",
    "Certification": "api_certify",
    "certify": "api_certify",
    "certify_bounds": "api_certify",
    **dict.fromkeys(("from_equinox", "from_flax", "from_haiku", "from_nnx", "from_torch"), "models.adapters"),
    "Threat": "threats",
    "Network": "types",
}


def __getattr__(name: str) -> Any:
    # Imported when asked for, so that `import robustjax` costs nothing and needs no optional package.
    if name not in _HOMES:
        raise AttributeError(f"module 'robustjax' has no attribute {name!r}")
    return getattr(importlib.import_module(f"robustjax.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
