"""OpenOOD v1.5's benchmarks by name: which lists are ID, shifted, near and far OOD, and what is made of pictures."""

from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from robustjax.data import imglist
from robustjax.data.sources import Split

CLASSIC, LARGE = "images_classic", "images_largescale"


class Listed(NamedTuple):
    """A set of a benchmark.

    Attributes:
      path: of its list, below `benchmark_imglist`.
      folder: that its pictures lie in.
      length: how many images the published list has, where known.
      preprocess: what is made of its pictures, if not the benchmark's.
    """

    path: str
    folder: str
    length: int | None = None
    preprocess: str | None = None


class Benchmark(NamedTuple):
    """The sets of a benchmark, by OpenOOD's names.

    Attributes:
      classes: of the ID data.
      preprocess: what is made of pictures, see `data.preprocessing`: the shorter side scaled by Pillow's bilinear
        filter, then the centre.
      train, validation, test: ID images; settings are chosen on the validation images.
      search: OOD validation images.
      near, far: OOD sets.
      shifted: ID images under a covariate shift, which are ID in full-spectrum numbers.
    """

    classes: int
    preprocess: str
    train: Listed
    validation: Listed
    test: Listed
    search: Listed
    near: MappingProxyType[str, Listed]
    far: MappingProxyType[str, Listed]
    shifted: MappingProxyType[str, Listed]

    @property
    def ood(self) -> dict[str, Listed]:
        """All OOD sets, near ones first."""
        return {**self.near, **self.far}


def load(one: Listed, root: str | Path, benchmark: Benchmark, *, name: str, split: str, is_id: bool) -> Split:
    """Read a set of a benchmark from OpenOOD's data folder, see `data.imglist.load`."""
    root = Path(root)
    return imglist.load(
        root / "benchmark_imglist" / one.path,
        root / one.folder,
        preprocess=one.preprocess or benchmark.preprocess,
        name=name,
        split=split,
        classes=benchmark.classes if is_id else None,
    )


def _cifar(
    ours: str, other: str, classes: int, sizes: dict[str, int], shifted: dict[str, Listed]
) -> Benchmark:
    def listed(part: str, name: str) -> Listed:
        return Listed(f"{ours}/{part}_{name}.txt", CLASSIC, sizes.get(name) if part == "test" else None)

    return Benchmark(
        classes,
        "Res32Crop32",
        listed("train", ours)._replace(length=50_000),
        listed("val", ours)._replace(length=1_000),
        listed("test", ours),
        listed("val", "tin"),
        MappingProxyType({name: listed("test", name) for name in (other, "tin")}),
        MappingProxyType({name: listed("test", name) for name in ("mnist", "svhn", "texture", "places365")}),
        MappingProxyType(shifted),
    )


def _imagenet(ours: str, classes: int, train: int, validation: int, test: int) -> Benchmark:
    def listed(words: str, count: int | None = None, folder: str = LARGE) -> Listed:
        return Listed(f"{ours}/{words}.txt", folder, count)

    shifted = {
        f"imagenet_{kind}": listed(f"test_{ours}_{kind}")._replace(
            preprocess="Crop224" if kind == "c" else None
        )
        for kind in ("v2", "c", "r")
    }
    return Benchmark(
        classes,
        "Res256Crop224",
        listed(f"train_{ours}", train),
        listed(f"val_{ours}", validation),
        listed(f"test_{ours}", test),
        listed("val_openimage_o", 1_763),
        MappingProxyType({"ssb_hard": listed("test_ssb_hard", 49_000), "ninco": listed("test_ninco", 5_879)}),
        MappingProxyType(
            {
                "inaturalist": listed("test_inaturalist", 10_000),
                "textures": listed("test_textures", 5_160, CLASSIC),
                "openimage_o": listed("test_openimage_o", 15_869),
            }
        ),
        MappingProxyType(shifted),
    )


_FAR = {"mnist": 70_000, "svhn": 26_032, "texture": 5_640}
BENCHMARKS: dict[str, Benchmark] = {
    "cifar10": _cifar(
        "cifar10",
        "cifar100",
        10,
        {"cifar10": 9_000, "cifar100": 9_000, "tin": 7_793, **_FAR, "places365": 35_195},
        {"cifar10c": Listed("cifar10/test_cifar10c.txt", CLASSIC)},
    ),
    "cifar100": _cifar(
        "cifar100",
        "cifar10",
        100,
        {"cifar100": 9_000, "cifar10": 10_000, "tin": 6_526, **_FAR, "places365": 33_773},
        {},
    ),
    "imagenet200": _imagenet("imagenet200", 200, 258_951, 1_000, 9_000),
    "imagenet": _imagenet("imagenet", 1000, 1_281_167, 5_000, 45_000),
}
