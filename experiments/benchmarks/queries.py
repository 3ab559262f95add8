"""How near attacks without gradients come after so many queries, beside foolbox's.

    python -m experiments.benchmarks.queries cpu --run runs/mnist --images 100
    python -m experiments.benchmarks.queries smoke --run runs/smoke

Each attack looks for the nearest misclassified point of test images that are classified correctly; the table has the
median distance after each number of queries, with an exact 95 % interval over images, and the share of images broken
within --eps. foolbox's attacks, on the same weights in PyTorch, are watched through the network: whatever misclassified
point they ask about counts from then on, as for ours. The last line of each norm, FMN, has gradients: how much
decisions alone miss. Needs torch and foolbox for the other side: pip install -e '.[peers]'.
"""

import contextlib
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import measured_on, peers
from experiments.benchmarks.config import QUERIES_PRESETS as PRESETS
from experiments.benchmarks.config import QueriesConfig
from experiments.benchmarks.minimum_norm import median_interval
from experiments.shared import classifiers, command_line
from robustjax import attacks
from robustjax.attacks import objectives
from robustjax.attacks.query_curve import QueryCurve
from robustjax.attacks.solver import Solver
from robustjax.catalog import models
from robustjax.data import subsets
from robustjax.threats import Threat
from robustjax.types import Network, frozen

Search = Callable[[Threat, int], Solver]
OURS: dict[str, dict[str, Search]] = {
    "linf": {
        "hop_skip_jump": lambda t, n: attacks.hop_skip_jump(t, queries=n),
        "geoda": lambda t, n: attacks.geoda(t, queries=n),
        "rays": lambda t, n: attacks.rays(t, queries=n),
    },
    "l2": {
        "hop_skip_jump": lambda t, n: attacks.hop_skip_jump(t, queries=n),
        "geoda": lambda t, n: attacks.geoda(t, queries=n),
        "boundary_attack": lambda t, n: attacks.boundary_attack(t, queries=n),
        "sign_opt": lambda t, n: attacks.sign_opt(t, queries=n),
    },
}
ORDER = {"linf": np.inf, "l2": 2}


def theirs(net: Any, x: np.ndarray, y: np.ndarray, cfg: QueriesConfig) -> dict[tuple[str, str], QueryCurve]:
    """Run foolbox's attacks until they have asked as often, and note what they meet: {(norm, attack): curve}."""
    import foolbox
    import torch

    class Enough(Exception):
        pass

    images = torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))
    labels = torch.from_numpy(y.astype(np.int64))
    origin = images.numpy().astype(np.float64)

    class Watched(torch.nn.Module):
        def __init__(self, order: float) -> None:
            super().__init__()
            self.order, self.asked = order, 0
            self.best, self.curve = np.full(len(x), np.inf), []

        def forward(self, points: Any) -> Any:
            if len(points) != len(x):  # an image alone cannot be told from the others
                raise RuntimeError("foolbox asks about another number of images than it was given")
            logits = net(points)
            wrong = (logits.argmax(1) != labels).numpy()
            flat = (points.detach().numpy().astype(np.float64) - origin).reshape(len(x), -1)
            distance = np.linalg.norm(flat, self.order, axis=1)
            self.best = np.where(wrong, np.minimum(self.best, distance), self.best)
            self.asked += 1
            self.curve += [self.best for number in cfg.queries if number == self.asked]
            if self.asked >= max(cfg.queries):
                raise Enough
            return logits

    found = {}
    for norm, name, attack in (
        ("linf", "HopSkipJumpAttack", foolbox.attacks.HopSkipJumpAttack(steps=10**6, constraint="linf")),
        ("l2", "HopSkipJumpAttack", foolbox.attacks.HopSkipJumpAttack(steps=10**6, constraint="l2")),
        ("l2", "BoundaryAttack", foolbox.attacks.BoundaryAttack(steps=10**6)),
    ):
        watched = Watched(ORDER[norm]).eval()
        torch.manual_seed(cfg.seed)
        np.random.seed(cfg.seed)  # noqa: NPY002  foolbox draws from both
        with contextlib.suppress(Enough):
            attack(foolbox.PyTorchModel(watched, bounds=(0, 1), device="cpu"), images, labels, epsilons=None)
        curve = watched.curve + [watched.best] * (len(cfg.queries) - len(watched.curve))
        found[norm, name] = QueryCurve(np.asarray(cfg.queries), np.stack(curve))
    return found


def ours(it: Network, x: np.ndarray, y: np.ndarray, cfg: QueriesConfig) -> dict[tuple[str, str], QueryCurve]:
    """Run ours: {(norm, attack): curve}."""
    network = frozen(it.model, it.params, it.state)
    objective = objectives.margin(network, jnp.asarray(y))
    found = {}
    for norm in cfg.norms:
        threat = Threat(norm, jnp.inf)
        searches = OURS[norm] | {"fmn, with gradients": lambda t, n: attacks.fmn(t, steps=cfg.gradients)}
        for name, build in searches.items():
            blind = name in OURS[norm]
            began = time.perf_counter()
            curve = attacks.query_curve(
                build(threat, max(cfg.queries)),
                jax.random.key(cfg.seed),
                objective,
                jnp.asarray(x),
                norm=norm,
                at=cfg.queries if blind else (cfg.gradients + 1,),
            )
            print(f"{norm} {name}: {time.perf_counter() - began:.1f} s with compiling", flush=True)
            found[norm, name] = curve
    return found


def main(cfg: QueriesConfig) -> int:
    """Measure, print a table, append a line."""
    packages = measured_on.versions("jax", "flax", "torch", "foolbox")
    print(f"{measured_on.chip()}, {packages}")
    it, test = classifiers.open_classifier(cfg.run, data_dir=cfg.data_dir)
    test = subsets.subset(test, cfg.images)
    x, y = test.image.astype(np.float32) / 255, np.asarray(test.label)
    right = np.asarray(frozen(it.model, it.params, it.state)(jnp.asarray(x))).argmax(axis=1) == y
    x, y = x[right], y[right]
    print(f"{it.title}: {len(y)} images, all classified correctly")
    curves = {("ours", *key): curve for key, curve in ours(it, x, y, cfg).items()}
    if cfg.peers and find_spec("torch") and find_spec("foolbox"):
        constants = models.NORMALISATIONS.get(it.about["dataset"])
        net = peers.network(it.about["model"], it.params, it.state, constants)
        curves |= {
            ("foolbox", *key): curve for key, curve in theirs(net, x, y, cfg).items() if key[0] in cfg.norms
        }
    results = []
    for (contender, norm, name), curve in sorted(
        curves.items(), key=lambda item: (item[0][1], item[0][0] != "ours")
    ):
        eps = cfg.eps[cfg.norms.index(norm)]
        for number, distance, share in zip(curve.queries, curve.distance, curve.success(eps), strict=True):
            low, high = median_interval(distance)
            row = {
                "contender": contender,
                "norm": norm,
                "attack": name,
                "queries": int(number),
                "median": float(np.median(distance)),
                "interval": [low, high],
                "broken": float(share),
            }
            results.append(row)
            print(
                f"{contender:8s} {norm:5s} {name:22s} {number:7d} queries  median {row['median']:8.4f} "
                f"({low:.4f} to {high:.4f})  within {eps:g}: {100 * share:5.1f} %"
            )
    measured_on.append(cfg.out, cfg, packages, images=len(y), results=results)
    return 0


if __name__ == "__main__":
    command_line.script(main, PRESETS, __doc__)
