r"""Compare the networks of RobustBench's model zoo with RobustBench's own classes, at random weights.

    python -m experiments.benchmarks.robustbench --out runs/robustbench.jsonl
    python -m experiments.benchmarks.robustbench smoke

Each entry of `robustjax/catalog/robustbench.tsv` whose network is here is built by RobustBench, gets random weights
and statistics, and is read as a checkpoint would be. The line of an entry has the largest difference between the logits
of the two on random images. Entries of the same class and settings share one measurement. A killed run goes on where it
was; the table at the end counts what is in the file. Needs PyTorch, timm and robustbench, which are installed by name.
"""

import collections
import gc
import importlib
import json
import pathlib
import re
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from experiments.benchmarks.config import ROBUSTBENCH_PRESETS as PRESETS
from experiments.benchmarks.config import RobustBenchConfig
from experiments.shared import command_line
from robustjax import runtime
from robustjax.catalog.known_checkpoints import Known, entries
from robustjax.models import architectures, layernames, recognition, weights
from robustjax.runtime import strict_json

BOARDS = {"cifar10": "cifar10", "cifar100": "cifar100", "imagenet2012": "imagenet"}
CLASSES = {"cifar10": 10, "cifar100": 100, "imagenet2012": 1000}
SIDES = {"cifar10": 32, "cifar100": 32, "imagenet2012": 64}  # small images do where positions are not learned
THREATS = {"linf": "Linf", "l2": "L2", "corruptions": "corruptions"}


def main(cfg: RobustBenchConfig) -> None:
    """Measure what is missing in the file, then tabulate."""
    file = pathlib.Path(cfg.out)
    file.parent.mkdir(parents=True, exist_ok=True)
    done = {line["board"]: line for line in _lines(file)}
    zoo = originals()
    chosen = [entry for entry in entries() if entry.architecture and (not cfg.only or entry.name in cfg.only)]
    kinds = {
        entry.board: f"{zoo.kind(entry)} {entry.architecture} {entry.mean} {entry.std} {CLASSES[entry.dataset]}"
        for entry in chosen
    }
    # Most entries for the least work first, so that a run that is cut off has covered many.
    shared = collections.Counter(kinds.values())
    chosen.sort(key=lambda entry: _size(entry.architecture or "") / shared[kinds[entry.board]])
    by_kind = {line["kind"]: line for line in done.values()}
    for entry in chosen:
        if entry.board in done:
            continue
        kind = kinds[entry.board]
        line = by_kind.get(kind) or measured(entry, zoo.build(entry), images=cfg.images, seed=cfg.seed)
        line = {**line, "board": entry.board, "kind": kind}
        by_kind[kind] = done[entry.board] = line
        strict_json.append(file, line)
        runtime.say(
            f"{entry.board}: {entry.architecture}, difference {line['difference']:.2g} of {line['scale']:.2g}"
        )
    for line in table(list(done.values())):
        print(line)
    if cfg.page:
        runtime.write_whole(pathlib.Path(cfg.page), "\n".join(page(done)).encode())


def measured(entry: Known, theirs: Any, *, images: int, seed: int) -> dict[str, Any]:
    """Compare one network with its original, both with the same random weights.

    Returns:
      The largest difference of two logits and the largest logit, what the tensors were recognised as, and whether the
      architecture of the table is among these.
    """
    import torch

    drawn(theirs, seed)
    side = (
        224
        if (entry.architecture or "").startswith(("vit", "swin", "mixednuts_imagenet"))
        else SIDES[entry.dataset]
    )
    shape = (side, side, 3)
    x = np.random.default_rng(seed).uniform(size=(images, *shape)).astype(np.float32)
    with torch.no_grad():
        image = torch.tensor(x.transpose(0, 3, 1, 2).copy())
        expected = theirs(image).numpy()
        # Sparse activations jump at thresholds, where a rounding decides: how far does theirs move by one?
        jumps = (entry.architecture or "").endswith("_sparse")
        rounded = theirs(image * (1 + 2**-23)).numpy() if jumps else expected
    full = {name: value.numpy() for name, value in theirs.state_dict().items()}
    bare = {name: full[at] for name, at in layernames.bare(full).items()}
    stored, tensors = weights.constants(bare)
    names = recognition.recognised({name: value.shape for name, value in tensors.items()})

    name = entry.architecture or ""
    # An entry without constants in the table has them in its file, or none.
    mean, std = (entry.mean, entry.std) if entry.mean else stored or (None, None)
    given = {} if architectures.normalises_itself(name) else {"mean": mean, "std": std}
    tensors = weights.settled(name, tensors)
    model = architectures.architecture(name)(classes=CLASSES[entry.dataset], shape=shape, **given)
    params, state = weights.into(model, tensors)
    actual = np.asarray(jax.jit(model.apply)(params, state, x)[0])
    if name.startswith("ensemble"):  # theirs are probabilities, ours their logarithms
        expected = np.log(np.maximum(expected, np.exp(-80.0)))
    if name.startswith(("ensemble", "adaptive_smoothing")):  # where a probability may underflow
        expected = np.maximum(expected, -80.0)
        actual = np.maximum(actual, -80.0)
    found = {
        "difference": float(np.abs(actual - expected).max()),
        "scale": float(np.abs(expected).max()),
        "own": float(np.abs(rounded - expected).max()),
        "architecture": name,
        "recognised": list(names),
        "right": name in names,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
    }
    del params, state, tensors, bare, full
    jax.clear_caches()
    gc.collect()
    return found


def drawn(net: Any, seed: int) -> None:
    """Draw every tensor that a network computes with, away from the values that would hide it."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in net.state_dict().items():
            constant = name.endswith(("mu", "sigma", "mean", "std", "attn_mask")) and not name.endswith(
                "running_mean"
            )
            number = value.ndim == 0 and not name.endswith("threshold")
            if constant or number or not value.is_floating_point():
                continue  # of normalisation and of mixtures; and counters
            if value.ndim > 1:
                value.normal_(0, value[0].numel() ** -0.5, generator=generator)
            elif name.endswith(("running_var", "weight")):
                value.uniform_(0.5, 1.5, generator=generator)
            elif name.endswith(("running_mean", "bias")):
                value.normal_(0, 0.2, generator=generator)
            elif re.search(r"(alpha|beta|threshold|gamma\d?)$", name):
                value.uniform_(0.1, 0.5, generator=generator)
    net.eval()


class Originals:
    """RobustBench's own networks, without weights."""

    def __init__(self, models: Any) -> None:
        """Take the table of `robustbench.model_zoo.models`."""
        self.models = {dataset.value: boards for dataset, boards in models.items()}

    def kind(self, entry: Known) -> str:
        """Name the class that an entry is of, the same for entries that are built alike."""
        if name := self._registered(entry):
            return name
        build = self._entry(entry)
        code = None if isinstance(build, type) else build.__code__
        return build.__name__ if code is None else f"{code.co_code.hex()} {code.co_consts} {code.co_names}"

    def build(self, entry: Known) -> Any:
        """Build the network of an entry."""
        if name := self._registered(entry):
            import timm

            return timm.create_model(name, num_classes=CLASSES[entry.dataset], pretrained=False)
        import torch

        # One network keeps its constants on an accelerator, which need not be there.
        moved = torch.Tensor.cuda
        torch.Tensor.cuda = lambda self, *_, **__: self
        try:
            return self._entry(entry)()
        finally:
            torch.Tensor.cuda = moved

    def _registered(self, entry: Known) -> str:
        """Name an entry as RobustBench looks it up among timm's networks, or not at all."""
        import timm

        board = f"{BOARDS[entry.dataset]}_{entry.threat}"
        name = f"{entry.name.lower().replace('-', '_')}_{board}"
        return name if timm.is_model(name) else ""

    def _entry(self, entry: Known) -> Callable[[], Any]:
        boards = {threat.value: board for threat, board in self.models[BOARDS[entry.dataset]].items()}
        # The plain ResNet-50 of torchvision would load its weights; here they are drawn.
        if entry.name == "Standard_R50":
            return boards["Linf"]["Salman2020Do_R50"]["model"]
        return boards[THREATS[entry.threat]][entry.name]["model"]


def originals() -> Originals:
    """Import RobustBench; its attacks, which it imports too, are not needed and may be missing.

    Raises:
      ValueError: in one line, if it is not installed.
    """
    for absent in ("autoattack", "autoattack.state"):
        module: Any = types.ModuleType(absent)
        module.AutoAttack = module.EvaluationState = object
        sys.modules.setdefault(absent, module)
    try:
        return Originals(importlib.import_module("robustbench.model_zoo.models").model_dicts)
    except ImportError as error:
        raise ValueError(
            f"robustbench cannot be imported ({error}), must be installed with torch, torchvision and timm"
        ) from None


def table(lines: list[dict[str, Any]]) -> Iterator[str]:
    """Tabulate by board: entries, those whose network is here, those compared, the largest difference."""
    yield "| board | entries | network is here | compared | recognised | largest difference, of the largest logit |"
    yield "|---|---|---|---|---|---|"
    boards = dict.fromkeys((entry.dataset, entry.threat) for entry in entries())
    total = np.zeros(4, int)
    for dataset, threat in boards:
        of = [entry for entry in entries() if (entry.dataset, entry.threat) == (dataset, threat)]
        seen = [line for line in lines if line["board"].startswith(f"{dataset}/{threat}/")]
        worst = max((line["difference"] / line["scale"] for line in seen), default=float("nan"))
        counts = [len(of), sum(bool(entry.architecture) for entry in of), len(seen)]
        counts.append(sum(line["right"] for line in seen))
        total += counts
        yield f"| {dataset}, {threat} | {' | '.join(map(str, counts))} | {worst:.1e} |"
    yield f"| all | {' | '.join(map(str, total))} | |"


def page(done: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Write every entry of the zoo: its network here, and the largest difference of logits as measured."""
    yield "# RobustBench's model zoo, entry by entry"
    yield ""
    yield "Made by `python -m experiments.benchmarks.robustbench --page FILE`. The difference is the largest between"
    yield "our logits and those of RobustBench's class, at the same random weights in float32, over the largest logit."
    yield "Sparse activations jump at thresholds: their lines say too how far RobustBench's network moves by itself"
    yield "where images are scaled by 1 + 2^-23, one rounding."
    yield ""
    yield from table(list(done.values()))
    yield ""
    yield "| board | entry | network here | difference |"
    yield "|---|---|---|---|"
    for entry in sorted(entries(), key=lambda entry: entry.board):
        line = done.get(entry.board)
        told = "not compared" if line is None else f"{line['difference'] / line['scale']:.1e}"
        if line is not None and line.get("own"):
            told += f"; theirs by one rounding {line['own'] / line['scale']:.1e}"
        if line is not None and not line["right"]:
            told += ", recognised as another"
        board, _, name = entry.board.rpartition("/")
        yield f"| {board} | {name} | {entry.architecture or 'not here'} | {told} |"
    yield ""


def _size(name: str) -> float:
    """Guess the work that a network is, as depth times width of a wide ResNet of the same."""
    sizes = re.search(r"(?:wideresnet|gowal)(\d+)_(\d+)", name)
    if sizes:
        return float(sizes[1]) * float(sizes[2])
    large = name.startswith(
        ("ensemble", "swin", "wideresnet_a4", "adaptive_smoothing", "mixednuts")
    ) or re.search(r"_(l|l12)(_|$)", name)
    return 800.0 if large else 200.0


def _lines(file: pathlib.Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


if __name__ == "__main__":
    command_line.script(main, PRESETS, __doc__)
