"""What does adversarial training do to shortcuts? Train on digits whose background gives the class away, and measure.

    python experiments/tradeoff.py digits --out runs/tradeoff
    python experiments/tradeoff.py digits --runs runs/mnist runs/mnist_plain --out runs/compared

Real digits lie on textures that agree with the class on most training images (robustjax/data/planted.py). Networks
are trained plainly and adversarially, over norms, radii, correlations and seeds, all seeds of a setting at once, and
judged on images with matching, random and missing backgrounds, under attack, under noise and by group. The
folder keeps every finished setting under cells/, weights included: start again with the same --out and only what
is missing is trained. report.html explains the result to somebody who has not read the papers.

With --runs nothing is trained: run folders of train_classifier.py are measured on their own test images instead, and
with --checkpoints PyTorch weights, each as file:architecture:dataset:normalisation:norm:eps, the last two the
threat it was trained against (l2:0 for plain training):

    python experiments/tradeoff.py digits --checkpoints net.pt:resnet18:cifar10:none:linf:8/255 --out runs/theirs
"""

import dataclasses
import io
import itertools
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import common
import jax
import jax.numpy as jnp
import numpy as np
import optax
import subjects
from pages import tradeoff as pages
from pages.tradeoff import STRONG, WEAK, Cell

from robustjax import data, runtime, training
from robustjax.analysis import last_layer, reliance
from robustjax.attacks import compose, objectives
from robustjax.attacks.pgd import pgd
from robustjax.data import order, planted, rebalance
from robustjax.data.scenes import Scenes
from robustjax.losses import group_dro
from robustjax.losses.adversarial import adversarial
from robustjax.losses.standard import standard
from robustjax.models import strided
from robustjax.runtime import grids
from robustjax.runtime.leaves import named
from robustjax.runtime.stopping import Stop, stopping
from robustjax.threats import Threat
from robustjax.types import Model

LEVELS = (0.125, 0.25, 0.375, 0.5)  # standard deviations of the noise behind RFS
ATTACKED = ("original", "mixed_same", "mixed_rand")


@dataclasses.dataclass(frozen=True)
class Config:
    """Train over norms, radii, correlations and seeds, and measure what the networks rely on."""

    l2: tuple[common.Fraction, ...] = (0.3, 0.6)  # training radii; plain training comes on top
    linf: tuple[common.Fraction, ...] = (4 / 255, 8 / 255)
    correlation: float = 0.8  # of background and class in training, for the radii
    correlations: tuple[float, ...] = (0.1, 0.5, 0.95, 1.0)  # further ones, at --radius
    radius: common.Fraction = 0.3  # l2, for the correlations
    groups: bool = True  # also two classes, with Group DRO, Just Train Twice and refitted last layers
    seeds: int = 3
    images: int = 3000  # for training; a third more for the two classes
    test: int = 1200
    epochs: int = 15
    batch_size: int = 128
    rate: float = 2e-3  # of AdamW, at the peak of a cosine cycle
    steps: int = 4  # of the training attack, each of 2.5 eps / steps
    judge: common.PGD = common.PGD(norm="l2", eps=0.3, steps=10, step=0.25)
    size: int = 16  # pixels a side
    digit: int = 12
    source: str = "digits"  # or another set of grey digits by name, such as mnist
    resamples: int = 500  # of the bootstrap
    runs: tuple[str, ...] = ()  # run folders of train_classifier.py, to be measured instead
    checkpoints: tuple[
        str, ...
    ] = ()  # file:architecture:dataset:normalisation:norm:eps, to be measured instead
    out: str = "runs/tradeoff"
    data_dir: str | None = None

    def check(self) -> None:
        """Refuse numbers that cannot be meant, before any work."""
        for name in ("seeds", "images", "test", "epochs", "batch_size", "steps", "resamples"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} is {getattr(self, name)}, must be at least 1")
        if not min((*self.l2, *self.linf, self.radius)) > 0:
            raise ValueError("--l2, --linf and --radius must be above 0; plain training is always there")
        if not all(0 <= c <= 1 for c in (*self.correlations, self.correlation)):
            raise ValueError(f"--correlations is {self.correlations}, must be in [0, 1]")
        for words in self.checkpoints:
            checkpoint(words)


PRESETS = {
    "digits": Config(),
    "smoke": Config(
        l2=(0.3,),
        linf=(),
        correlations=(0.1,),
        seeds=2,
        images=60,
        test=24,
        epochs=1,
        batch_size=32,
        steps=1,
        judge=common.PGD(norm="l2", eps=0.3, steps=1, step=1.0),
        groups=False,
        resamples=10,
    ),
}
# More radii or correlations may join a folder later: every setting has a file of its own.
MAY_DIFFER = ("out", "data_dir", "l2", "linf", "correlations", "groups", "resamples", "runs", "checkpoints")


def grid(cfg: Config) -> list[Cell]:
    """List what to train, each setting once."""
    trained = [("l2", 0.0), *(("l2", e) for e in cfg.l2), *(("linf", e) for e in cfg.linf)]
    cells = [Cell("multi", b, cfg.correlation, "plain", n, e) for b in (STRONG, WEAK) for n, e in trained]
    for c in (*cfg.correlations, cfg.correlation):
        cells += [Cell("multi", STRONG, c, "plain", "l2", e) for e in (0.0, cfg.radius)]
    if cfg.groups:
        two, most = Cell("binary", WEAK, 0.95), max(cfg.l2, default=cfg.radius)
        cells += [two._replace(norm=n, eps=e) for n, e in trained if n == "l2" or e == max(cfg.linf)]
        cells += [two._replace(method="group_dro", eps=e) for e in (0.0, most)]
        cells += [two._replace(method="jtt", eps=e) for e in (0.0, most)]
    return list(dict.fromkeys(cells))


def main(cfg: Config) -> int:
    """Train what is missing, then tell."""
    if cfg.runs or cfg.checkpoints:
        return compare(cfg)
    source, cells = digits(cfg), grid(cfg)
    workers = {k: Worker(cfg, k, source) for k in (2, 10)}
    with runtime.Run(cfg.out, cfg, may_differ=MAY_DIFFER) as run, stopping() as stop:
        paths = {cell: run.folder / "cells" / f"{cell.name}.npz" for cell in cells}
        for i, (cell, path) in enumerate(paths.items()):
            if path.exists():
                continue
            runtime.say(f"setting {i + 1} of {len(cells)}: {cell.name}")
            worker = workers[recipe_of(cfg, cell).classes]
            state = worker.fit(cell, stop)
            if state is None:
                runtime.say("stopped; the same command goes on with this setting")
                return stop.exit_code
            runtime.write_whole(path, packed(worker.measured(cell, state)))
    results = pages.Results(
        {cell: unpacked(path) for cell, path in paths.items()},
        cfg.correlation,
        cfg.radius,
        cfg.size * cfg.size * 3,
        cfg.resamples,
    )
    page = pages.page(cfg, results, examples(cfg, source))
    runtime.say(f"report: {page.write(pathlib.Path(cfg.out) / 'report.html')}")
    return 0


# --- scenes and files ---------------------------------------------------------------------------------


def digits(cfg: Config) -> planted.Source:
    """Load what is planted."""
    if cfg.source == "digits":
        return planted.embedded()
    split = data.load(cfg.source, "train", data_dir=cfg.data_dir)
    tenth = len(split.label) // 10
    return planted.of_grey(split.image, split.label, validation=tenth, test=2 * tenth)


def recipe_of(cfg: Config, cell: Cell) -> planted.Recipe:
    """Say how the scenes of a setting are made."""
    scale, noise = cell.background
    return planted.Recipe(
        size=cfg.size,
        digit=cfg.digit,
        task=cell.task,
        correlation=cell.correlation,
        spurious_scale=scale,
        noise=noise,
    )


def examples(cfg: Config, source: planted.Source) -> bytes:
    """Draw the first test scenes of both backgrounds."""
    rows, names = [], []
    shown: dict[planted.Variant, str] = {"mixed_same": "own", "mixed_rand": "random", "only_bg_t": "alone"}
    for strength, background in (("strong", STRONG), ("weak", WEAK)):
        recipe = recipe_of(cfg, Cell("multi", background, cfg.correlation))
        for variant, name in shown.items():
            scenes = planted.planted(recipe, source, split="test", count=10, variant=variant)
            rows.append(scenes.image(np.arange(10)))
            names.append(f"{strength}, {name}")
    return grids.grid(rows, rows=names)


def packed(arrays: dict[str, np.ndarray]) -> bytes:
    """Write arrays as the bytes of an npz file."""
    out = io.BytesIO()
    np.savez_compressed(out, **arrays)  # pyright: ignore[reportArgumentType]
    return out.getvalue()


def unpacked(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Read the measurements of a setting, without its weights."""
    with np.load(path) as file:
        return {name: file[name] for name in file.files if not name.startswith("weights/")}


# --- training and measuring, all seeds of a setting at once ------------------------------------------


class Worker:
    """Trains and measures networks of some classes; settings that differ in their radius share a program."""

    def __init__(self, cfg: Config, classes: int, source: planted.Source) -> None:
        self.cfg, self.source = cfg, source
        shape, grey = (cfg.size, cfg.size, 3), (0.5, 0.5, 0.5)
        self.model = strided.strided(classes=classes, shape=shape, mean=grey, std=(0.25, 0.25, 0.25))
        judge = common.judges(cfg.judge, cfg.judge.eps)
        self._measure = reliance.measurement(self.model, judge, levels=LEVELS, attacked=ATTACKED)
        self._logits = jax.jit(jax.vmap(lambda p, s, x: self.model.apply(p, s, x)[0]))
        self._features = jax.jit(jax.vmap(self._deepest))
        self._programs: dict[Any, tuple[Callable, Callable]] = {}

    def scenes(self, cell: Cell, split: planted.Split, count: int, variant: planted.Variant = "original"):
        """Make scenes, one set for each seed."""
        recipe = recipe_of(self.cfg, cell)
        return [
            planted.planted(recipe, self.source, split=split, count=count, seed=s, variant=variant)
            for s in range(self.cfg.seeds)
        ]

    def fit(self, cell: Cell, stop: Stop) -> training.TrainState | None:
        """Train; None if asked to stop before the end."""
        cfg = self.cfg
        count = cfg.images * 4 // 3 if cell.task == "binary" else cfg.images
        sets = self.scenes(cell, "train", count)
        label, group = (jnp.asarray(np.stack([getattr(s, n) for s in sets])) for n in ("label", "group"))
        batch = group_dro.GroupBatch(jnp.asarray(images(sets)), label, group)
        plan = [np.arange(count)] * cfg.seeds
        if cell.method == "group_dro":
            plan = [rebalance.evened(s.group, seed=i) for i, s in enumerate(sets)]
        if cell.method == "jtt":
            first = self._run(cell._replace(method="plain"), batch, plan, 2, stop)
            if first is None:
                return None
            guess = self._logits(first.params, first.state, batch.image).argmax(axis=-1)
            plan = [rebalance.upweighted(w, 20) for w in np.asarray(guess != label)]
        return self._run(cell, batch, plan, cfg.epochs, stop)

    def measured(self, cell: Cell, state: training.TrainState) -> dict[str, np.ndarray]:
        """Measure trained networks, and keep their weights."""
        params, inner = state.params, state.state.network if cell.method == "group_dro" else state.state
        sets = {v: self.scenes(cell, "test", self.cfg.test, v) for v in planted.VARIANTS}
        found = self._measure(jax.random.key(1), params, inner, sets)
        if cell.task == "binary":
            found |= self._refitted(cell, params, inner, sets)
        return found | {f"weights/{name}": np.asarray(leaf) for name, leaf in named(params).items()}

    def _run(
        self, cell: Cell, batch: group_dro.GroupBatch, plan: Sequence[np.ndarray], epochs: int, stop: Stop
    ) -> training.TrainState | None:
        cfg = self.cfg
        updates = max(1, round(epochs * batch.label.shape[1] / cfg.batch_size))
        kind = (cell.method == "group_dro", bool(cell.eps), cell.norm, updates)
        if kind not in self._programs:
            self._programs[kind] = self._compiled(cell, updates)
        start, update = self._programs[kind]
        state = start(jnp.arange(cfg.seeds))
        bar = runtime.progress(
            rows_of(plan, cfg.batch_size),
            total=updates,
            label="train",
            batch_size=cfg.batch_size * cfg.seeds,
        )
        for i, rows in bar:
            state, metrics = update(state, batch, rows, jnp.float32(cell.eps))
            if i % 20 == 0:
                bar.show({"loss": metrics["loss"].mean()})
            if stop.requested:
                return None
        return state

    def _compiled(self, cell: Cell, updates: int) -> tuple[Callable, Callable]:
        """Compile the start and the update of all seeds, for any radius."""
        steps, worst = self.cfg.steps, cell.method == "group_dro"
        model = group_dro.weighted(self.model, groups=4) if worst else self.model
        tx = optax.adamw(optax.cosine_onecycle_schedule(max(updates, 4), self.cfg.rate), weight_decay=1e-4)

        def start(seed):
            return training.start(jax.random.key(seed), model, tx)

        def all_seeds(state, batch, rows, eps):
            def loss_at(t):
                if not cell.eps:
                    return group_dro.group_dro(model) if worst else standard(model)
                # A radius of full size from the start can leave a network that always says the same.
                radius = eps * jnp.minimum(2.0 * t.astype(jnp.float32) / updates, 1.0)
                threat = Threat(cell.norm, radius)  # pyright: ignore[reportArgumentType]
                ascent = pgd(threat, steps=steps, step_size=2.5 * radius / steps, keep="last")
                attack = compose.against(ascent, objectives.cross_entropy)
                return (group_dro.adversarial_group_dro if worst else adversarial)(model, attack)

            def one(state, batch, rows):
                return training.scheduled(loss_at, tx)(state, jax.tree.map(lambda a: a[rows], batch))

            return jax.vmap(one)(state, batch, rows)

        return jax.jit(jax.vmap(start)), jax.jit(all_seeds, donate_argnums=0)

    def _deepest(self, params, state, x):
        taps = self.model.features(params, state, x)
        return taps[max(taps)]

    def _refitted(self, cell: Cell, params, state, sets) -> dict[str, np.ndarray]:
        """Refit the last layer of every seed on validation scenes without the shortcut, and predict again."""
        cfg = self.cfg
        train = self.scenes(cell, "train", cfg.images)
        valid = self.scenes(cell, "validation", max(cfg.test // 2, 40), "mixed_rand")
        names = ("mixed_same", "mixed_other")
        read = [
            np.asarray(self._features(params, state, jnp.asarray(images(s))))
            for s in (train, valid, *(sets[name] for name in names))
        ]
        out = {f"refit/{name}": [] for name in names}
        for s, (known, held, *test) in enumerate(zip(*read, strict=True)):
            layer = last_layer.dfr(known, held, valid[s].label, valid[s].group, classes=2, seed=s).layer
            for name, features in zip(names, test, strict=True):
                out[f"refit/{name}"].append(
                    np.asarray(layer(jnp.asarray(features)).argmax(axis=-1), np.int16)
                )
        return {name: np.stack(rows) for name, rows in out.items()}


def images(sets: Sequence[Scenes]) -> np.ndarray:
    """Read all images, (seeds, n, h, w, c)."""
    return np.stack([s.image(np.arange(len(s))) for s in sets])


def rows_of(plan: Sequence[np.ndarray], batch_size: int) -> Iterator[np.ndarray]:
    """Yield the rows of every seed's next batch, (seeds, b), over shuffled epochs without end."""
    for first in itertools.count(0, batch_size):
        at = np.arange(first, first + batch_size)
        yield np.stack([p[order.rows(len(p), at, seed=s)] for s, p in enumerate(plan)]).astype(np.int32)


# --- networks that others trained ---------------------------------------------------------------------


class Subject(NamedTuple):
    """A classifier to be measured like our own; whatever brings networks has to make these.

    `sets` holds at least "original"; more variants, such as those of ImageNet-9, give more measures.
    """

    name: str
    norm: str  # of its training
    eps: float  # 0 for plain training
    model: Model
    params: Any
    state: Any
    sets: dict[str, list[Scenes]]


def of_runs(cfg: Config) -> Iterator[Subject]:
    """Open run folders of train_classifier.py, with the test images of their own data set."""
    for folder in cfg.runs:
        it = common.trained(folder, data_dir=cfg.data_dir)
        attack = it.config["attack"]
        eps = 0.0 if it.config["loss"] == "standard" else float(attack["eps"])
        sets = {"original": [scenes(common.first(it.test, cfg.test))]}
        yield Subject(folder, attack["norm"], eps, it.model, it.params, it.state, sets)


def of_checkpoints(cfg: Config) -> Iterator[Subject]:
    """Open PyTorch weights, with the test images of the data set named beside them."""
    for words in cfg.checkpoints:
        source, norm, eps = checkpoint(words)
        test = data.load(source.dataset or "", "test", data_dir=cfg.data_dir)
        found = subjects.imported(source, test)
        name = f"{pathlib.PurePath(source.checkpoint or '').stem} ({source.architecture})"
        sets = {"original": [scenes(common.first(test, cfg.test))]}
        yield Subject(name, norm, eps, found.model, found.params, found.state, sets)


def checkpoint(words: str) -> tuple[subjects.Source, str, float]:
    """Read file:architecture:dataset:normalisation:norm:eps: the source, and the threat of its training."""
    parts = words.rsplit(":", 5)
    file, architecture, dataset, constants, norm, eps = parts if len(parts) == 6 else [""] * 6
    try:
        radius = common.fraction([eps])
    except ValueError:
        radius = -1.0
    if not (radius >= 0 and norm in ("l2", "linf") and constants in subjects.CONSTANTS):
        raise ValueError(
            f"--checkpoints has {words!r}, must be file:architecture:dataset:normalisation:norm:eps with normalisation "
            f"of {', '.join(subjects.CONSTANTS)} and norm l2 or linf, such as net.pt:resnet18:cifar10:none:linf:8/255"
        )
    source: Any = {
        "checkpoint": file,
        "architecture": architecture,
        "dataset": dataset,
        "normalisation": constants,
    }
    return subjects.Source(**source), norm, radius


def scenes(test: data.Split) -> Scenes:
    """See the images of a data set as scenes without known backgrounds."""
    image = np.asarray(test.image)
    # Ink on black paper is its own mask; of other images the object is unknown.
    paper = image.shape[-1] == 1 and np.median(image) < 64
    return Scenes(
        name=test.info.name,
        label=test.label.astype(np.int32),
        place=np.full(len(test.label), -1, np.int32),
        classes=test.info.classes,
        places=(),
        image=lambda rows: image[rows],
        mask=(lambda rows: image[rows][..., 0] > 64) if paper else None,
        index=test.index,
    )


def compare(cfg: Config) -> int:
    """Measure classifiers that others trained, and draw the page about them."""
    judge, found = common.judges(cfg.judge, cfg.judge.eps), []
    with runtime.Run(cfg.out, cfg, may_differ=MAY_DIFFER) as run:
        for subject in (*of_runs(cfg), *of_checkpoints(cfg)):
            words = [part for part in pathlib.PurePath(subject.name).parts if part.strip("./")]
            path = run.folder / "cells" / f"{'_'.join(words)}.npz"
            if not path.exists():
                runtime.say(f"measuring {subject.name}")
                measure = reliance.measurement(subject.model, judge, levels=LEVELS, attacked=ATTACKED)
                one = jax.tree.map(lambda a: jnp.asarray(a)[None], (subject.params, subject.state))
                runtime.write_whole(path, packed(measure(jax.random.key(1), *one, subject.sets)))
            facts = {"name": subject.name, "norm": subject.norm, "eps": subject.eps}
            found.append((facts, unpacked(path)))
        path = pages.compared(cfg, found).write(run.folder / "report.html")
    runtime.say(f"report: {path}")
    return 0


if __name__ == "__main__":
    common.script(main, PRESETS, __doc__)
