"""Training steps to be timed, ours and the same in PyTorch: PGD, RATIO and ALOE.

An update attacks the network in evaluation mode and takes one SGD step in train mode on what was found. RATIO attacks
ID images and as many OOD images in l2, ALOE ID images and twice as many OOD images in linf by two steps; both lower the
confidence on OOD images by the cross-entropy to the uniform distribution.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from experiments.benchmarks import config, peers
from robustjax import optimizers, runtime, training
from robustjax.attacks import objectives
from robustjax.attacks.compose import against
from robustjax.attacks.pgd import pgd
from robustjax.losses import confidences
from robustjax.losses.adversarial import adversarial
from robustjax.losses.aloe import aloe
from robustjax.losses.ratio import ratio
from robustjax.threats import Threat
from robustjax.types import Ascent, Batch, Found, Loss, Model, Pair

RATE = 0.01
Turn = Callable[[], None]


class Method(NamedTuple):
    """What an update does.

    Attributes:
      norm, eps, ood_eps: of the attacks.
      steps: gradients of each attack.
      ood_ratio: OOD images for each ID image.
      weight: of the term of OOD images.
      share: of the sum of both terms; RATIO's half.
    """

    norm: Literal["linf", "l2"]
    eps: float
    ood_eps: float
    steps: int
    ood_ratio: int
    weight: float
    share: float = 1.0

    @property
    def passes(self) -> int:
        """Forward passes' worth of operations per image: two for an attack's step, three for the update."""
        return 2 * self.steps + 3


def method(name: config.Method, *, eps: float, steps: int) -> Method:
    """Set up a method: PGD with the radius and steps given, RATIO with the steps, ALOE as it was published."""
    return {
        "pgd": Method("linf", eps, eps, steps, 0, 0.0),
        "ratio": Method("l2", 0.5, 1.0, steps, 1, 1.0, 0.5),
        "aloe": Method("linf", 1 / 255, 1 / 255, 2, 2, 0.5),
    }[name]


def unrolled(threat: Threat, *, steps: int, step_size: float) -> Ascent:
    """Do what `pgd(..., keep="last")` does, without a loop in the program."""

    def ascend(key, objective, x):
        slope = jax.grad(lambda z: objective(z).sum())
        z = threat.sample(key, x)
        for _ in range(steps):
            z = threat.project(z + step_size * threat.steepest(slope(z), z), x)
        return jax.lax.stop_gradient(Found(z, objective(z)))

    return ascend


def loss(it: Method, name: config.Method, model: Model, *, loop: bool = True) -> Loss:
    """Build our loss, the attack as a compiled loop or written out."""

    def ascent(eps: float) -> Ascent:
        threat, settings = Threat(it.norm, eps), {"steps": it.steps, "step_size": 0.25 * eps}
        return pgd(threat, keep="last", **settings) if loop else unrolled(threat, **settings)

    attack, outside = against(ascent(it.eps), objectives.cross_entropy), ascent(it.ood_eps)
    if name == "pgd":
        return adversarial(model, attack)
    if name == "ratio":
        return ratio(model, attack, outside, weight=it.weight, penalty=confidences.ce_to_uniform)
    return aloe(model, attack, outside, weight=it.weight)


class Ours(NamedTuple):
    """One turn of the library, and the text of the compiled step, which it takes another compilation to get."""

    turn: Turn
    program: Callable[[], str]


def ours(model: Model, loss: Loss, batch: Batch | Pair, mesh: Any, updates: int) -> Ours:
    """Build one turn of the library: `updates` compiled steps, over all devices of the mesh."""
    tx = optimizers.sgd(RATE)
    step: Any = training.step(loss, tx)  # compiled, as its type does not say
    state = training.start(jax.random.key(0), model, tx, mesh)
    batch = jax.device_put(batch, runtime.over_data(mesh))

    def turn() -> None:
        nonlocal state
        for _ in range(updates):
            state, _ = step(state, batch)
        jax.block_until_ready(state)

    return Ours(turn, lambda: step.lower(state, batch).compile().as_text())


def theirs(it: Method, net: Any, form: peers.Form, batch: Batch | Pair, updates: int) -> Turn:
    """Build one turn of PyTorch with the same weights and images; input gradients only during attacks."""
    import torch
    from torch.nn import functional as f

    def on_device(images: Any) -> Any:
        return torch.from_numpy(np.ascontiguousarray(np.array(images).transpose(0, 3, 1, 2))).to(form.place)

    data, ood = (batch.id, batch.ood) if isinstance(batch, Pair) else (batch, None)
    x, y = on_device(data.image), torch.from_numpy(np.array(data.label, np.int64)).to(form.place)
    out = None if ood is None else on_device(ood)
    tx = torch.optim.SGD(net.parameters(), RATE, momentum=0.9, nesterov=True, weight_decay=5e-4)

    def unsure(z: Any) -> Any:
        return -f.log_softmax(z, dim=1).mean(dim=1)

    def length(v: Any) -> Any:
        return v.flatten(1).norm(dim=1).clamp_min(1e-12)[:, None, None, None]

    def project(z: Any, origin: Any, eps: float) -> Any:
        if it.norm == "linf":
            return torch.min(torch.max(z, origin - eps), origin + eps).clamp(0, 1)
        moved = z - origin
        return (origin + moved * (eps / length(moved)).clamp_max(1.0)).clamp(0, 1)

    def maximise(objective: Callable[[Any], Any], origin: Any, eps: float) -> Any:
        noise = torch.rand_like(origin) * 2 - 1
        z = project(origin + eps * (noise if it.norm == "linf" else noise / length(noise)), origin, eps)
        for _ in range(it.steps):
            z.requires_grad_(True)
            (slope,) = torch.autograd.grad(objective(form.logits(z)).sum(), z)
            way = slope.sign() if it.norm == "linf" else slope / length(slope)
            z = project(z.detach() + 0.25 * eps * way, origin, eps)
        return z

    def update() -> None:
        net.eval()
        inside = maximise(lambda z: f.cross_entropy(z, y, reduction="none"), x, it.eps)
        # The objective on OOD images goes up, away from the uniform distribution, as ours does.
        both = inside if out is None else torch.cat([inside, maximise(unsure, out, it.ood_eps)])
        net.train()
        tx.zero_grad()
        logits = form.logits(both)
        value = f.cross_entropy(logits[: len(x)], y)
        if out is not None:
            value = value + it.weight * unsure(logits[len(x) :]).mean()
        (it.share * value).backward()
        tx.step()

    def turn() -> None:
        for _ in range(updates):
            update()
        if form.place == "cuda":
            torch.cuda.synchronize()

    return turn
