"""The sets of tradeoffs.benchmark: opened and checked before any work, and read while they are needed."""

import pathlib
from typing import NamedTuple

import numpy as np

from experiments.tradeoffs.benchmark_config import BenchmarkConfig
from robustjax import checks, data
from robustjax.data import picture_tree, placing, planted
from robustjax.data.imagenet9 import CLASSES as NINE
from robustjax.data.imagenet9 import VARIANTS, imagenet9, to_imagenet9
from robustjax.data.objectnet import objectnet
from robustjax.data.planted_pictures import PictureRecipe, planted_pictures
from robustjax.data.rival10 import rival10
from robustjax.data.salient_imagenet import salient_imagenet
from robustjax.data.scenes import Scenes, subset
from robustjax.data.waterbirds import waterbirds
from robustjax.data.waterbirds_built import waterbirds_built

IMAGENET_CLASSES = 1000
PLANTED_TRAIN, PLANTED_TEST = 3000, 1200


class Benchmark(NamedTuple):
    """A benchmark.

    Attributes:
      name: of it in files and flags.
      title: of it in reports.
      sets: by name, all that is read of it.
      to_class: of ImageNet's classes its own, or -1; None where a head is fitted to the set "train".
      images: in words.
    """

    name: str
    title: str
    sets: dict[str, Scenes]
    to_class: np.ndarray | None
    images: str

    @property
    def first(self) -> Scenes:
        """Take a set to try networks on."""
        return next(iter(self.sets.values()))

    def require(self, name: str, *, classes: int, features: int) -> None:
        """Refuse a network that it cannot be asked of.

        Args:
          name: of the network.
          classes: how many logits it gives.
          features: how many of its deepest activations there are.
        Raises:
          ValueError: in one line.
        """
        if self.to_class is None:
            if not features:
                raise ValueError(
                    f"--networks {name} shows no inner activations, which {self.name} fits a head to; leave out "
                    f"--{self.name}, or name a Network instead of a function"
                )
        elif classes != IMAGENET_CLASSES and not (self.name == "imagenet9" and classes == len(NINE)):
            nine = f", or {len(NINE)} for those of ImageNet-9" if self.name == "imagenet9" else ""
            raise ValueError(
                f"--networks {name} gives {classes} logits, must give {IMAGENET_CLASSES} for --{self.name}, one for "
                f"each of ImageNet's classes{nine}"
            )


def opened(cfg: BenchmarkConfig) -> list[Benchmark]:
    """Open what the config names.

    Raises:
      ValueError: in one line, for files that are absent or not as published.
    """
    makers = {
        "imagenet9": _imagenet9,
        "rival10": _rival10,
        "salient": _salient,
        "waterbirds": _waterbirds,
        "objectnet": _objectnet,
        "pictures": _pictures,
        "planted": _planted,
    }
    return [makers[name](cfg) for name in cfg.benchmarks()]


def _some(cfg: BenchmarkConfig, scenes: Scenes) -> Scenes:
    """Take the images that are asked for, evenly spread over classes: sets are in the order of their classes."""
    if cfg.images is None or cfg.images >= len(scenes):
        return scenes
    order = np.argsort(scenes.group if (scenes.group >= 0).all() else scenes.label, kind="stable")
    return subset(scenes, np.sort(order[checks.evenly(len(scenes), cfg.images)]))


def _benchmark(
    cfg: BenchmarkConfig, name: str, title: str, sets: dict[str, Scenes], to_class: np.ndarray | None = None
) -> Benchmark:
    some = {key: scenes if key == "train" else _some(cfg, scenes) for key, scenes in sets.items()}
    counts = (
        f"{len(scenes):,} {key}" + (f" (of {len(sets[key]):,})" if len(scenes) < len(sets[key]) else "")
        for key, scenes in some.items()
    )
    words = f"{', '.join(counts)}; {cfg.size} x {cfg.size} pixels"
    return Benchmark(name, title, some, to_class, words)


def _imagenet9(cfg: BenchmarkConfig) -> Benchmark:
    root = pathlib.Path(cfg.imagenet9 or "")
    sets = {variant: imagenet9(root, variant, size=cfg.size) for variant in VARIANTS}
    to_class = to_imagenet9(cfg.imagenet9_map or root / "in_to_in9.json")
    return _benchmark(cfg, "imagenet9", "ImageNet-9", sets, to_class)


def _rival10(cfg: BenchmarkConfig) -> Benchmark:
    sets = {split: rival10(cfg.rival10 or "", split, size=cfg.size) for split in ("test", "train")}
    return _benchmark(cfg, "rival10", "RIVAL10", sets)


def _salient(cfg: BenchmarkConfig) -> Benchmark:
    root = pathlib.Path(cfg.salient or "")
    answers = cfg.salient_answers or root / "discover_spurious_features.csv"
    sets = {kind: salient_imagenet(root, answers, kind, size=cfg.size) for kind in ("core", "spurious")}
    return _benchmark(cfg, "salient", "Salient ImageNet", sets, np.arange(IMAGENET_CLASSES))


def _waterbirds(cfg: BenchmarkConfig) -> Benchmark:
    root = pathlib.Path(cfg.waterbirds or "")
    title = "Waterbirds"
    if cfg.places:
        title += f", made of CUB and Places, correlation {cfg.correlation:g}"
        parts = cfg.segmentations or root / "segmentations"
        sets = {
            split: waterbirds_built(
                root, cfg.places, split, segmentations=parts, size=cfg.size, correlation=cfg.correlation, seed=cfg.seed
            )
            for split in ("test", "train")
        }  # fmt: skip
    else:
        sets = {
            split: waterbirds(root, split, size=cfg.size, segmentations=cfg.segmentations)
            for split in ("test", "train")
        }
    found = _benchmark(cfg, "waterbirds", title, sets)
    test = found.sets["test"]
    if lacking := sorted(set(range(test.groups)) - set(test.group.tolist())):
        raise ValueError(
            f"--waterbirds {cfg.waterbirds}: of {len(test)} test images none is of group {lacking[0]} of bird and "
            "place, must have all four"
        )
    return found


def _objectnet(cfg: BenchmarkConfig) -> Benchmark:
    shifted, to_class = objectnet(cfg.objectnet or "", size=cfg.size)
    sets = {"objectnet": shifted}
    if cfg.imagenet:
        larger = round(cfg.size * 256 / 224)
        val = picture_tree.load(cfg.imagenet, preprocess=f"Res{larger}Crop{cfg.size}")
        if len(val.info.classes) != IMAGENET_CLASSES:
            raise ValueError(
                f"--imagenet {cfg.imagenet} has {len(val.info.classes)} classes, must have all {IMAGENET_CLASSES}, or "
                "labels are shifted"
            )
        rows = np.flatnonzero(to_class[val.label] >= 0)
        sets["imagenet"] = Scenes(
            name="ImageNet, the same classes",
            label=to_class[val.label[rows]],
            place=np.full(len(rows), -1, np.int32),
            classes=shifted.classes,
            places=(),
            image=lambda chosen: val.image[rows[chosen]],
            mask=None,
            index=val.index[rows],
        )
    return _benchmark(cfg, "objectnet", "ObjectNet", sets, to_class)


def _planted(cfg: BenchmarkConfig) -> Benchmark:
    source = planted.embedded()
    recipe = planted.Recipe(size=cfg.size, digit=3 * cfg.size // 4)
    count = min(cfg.images or PLANTED_TEST, PLANTED_TEST)
    sets = {
        variant: planted.planted(recipe, source, split="test", count=count, variant=variant)
        for variant in planted.VARIANTS
    }
    sets["train"] = planted.planted(recipe, source, split="train", count=min(PLANTED_TRAIN, 10 * count))
    return _benchmark(cfg, "planted", "Digits on textures", sets)


def _pictures(cfg: BenchmarkConfig) -> Benchmark:
    name = cfg.pictures or ""
    train, test = (data.load(name, split, data_dir=cfg.data_dir) for split in ("train", "test"))
    textures = data.load(cfg.textures, "test", data_dir=cfg.data_dir)
    recipe = PictureRecipe(size=cfg.size, object=11 * cfg.size // 16)
    sets = {
        variant: planted_pictures(recipe, test, textures, split="test", count=cfg.images, variant=variant)
        for variant in placing.VARIANTS
    }
    sets["train"] = planted_pictures(recipe, train, textures, split="train", count=PLANTED_TRAIN)
    return _benchmark(cfg, "pictures", f"{name} on textures", sets)
