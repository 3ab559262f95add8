"""The images and the network of ood_detection.openood."""

import dataclasses
from collections.abc import Callable

import numpy as np

from experiments.ood_detection.config import OpenoodConfig
from experiments.ood_detection.scoring import Images
from experiments.shared import classifiers, network_source
from robustjax import runtime
from robustjax.catalog import names as catalog_names
from robustjax.catalog import openood
from robustjax.catalog.openood import BENCHMARKS, Listed
from robustjax.data import subsets
from robustjax.data.decode import digest
from robustjax.data.sources import Split
from robustjax.types import Model, Network


def load(cfg: OpenoodConfig) -> Images:
    """Read the lists of a benchmark, and say where one has another length than the published one.

    Raises:
      ValueError: in one line, if a list or a picture is not there, or a list is damaged.
    """
    benchmark = BENCHMARKS[cfg.benchmark]

    def read(one: Listed, name: str, part: str, wanted: subsets.Wanted, *, is_id: bool) -> Split:
        try:
            whole = openood.load(one, cfg.root or "", benchmark, name=name, split=part, is_id=is_id)
        except ValueError as error:
            hint = "; leave the set out with --sets" if part == "test" and not is_id else ""
            raise ValueError(f"--root {cfg.root}: {error}{hint}") from None
        if one.length is not None and len(whole.label) != one.length:
            runtime.say(
                f"warning: {one.path} lists {len(whole.label)} images, the published list {one.length}"
            )
        return in_memory(subsets.subset(whole, wanted))

    def fit_sets() -> tuple[Split, Split]:
        return (
            read(benchmark.train, cfg.benchmark, "train", cfg.fit_images, is_id=True),
            read(benchmark.validation, cfg.benchmark, "validation", cfg.images, is_id=True),
        )

    def part(name: str, one: Listed, *, is_id: bool) -> Split:
        return read(one, name, "test", cfg.images, is_id=is_id)

    return Images(
        cfg.benchmark,
        part(cfg.benchmark, benchmark.test, is_id=True),
        None,
        {name: part(name, benchmark.ood[name], is_id=False) for name in cfg.ood_sets()},
        "",
        fit_sets,
        read(benchmark.search, "OOD validation", "validation", cfg.images, is_id=False)
        if cfg.search
        else None,
        {name: part(name, one, is_id=True) for name, one in benchmark.shifted.items()}
        if cfg.full_spectrum
        else {},
    )


def in_memory(split: Split) -> Split:
    """Decode the pictures of a split once."""
    image = np.asarray(split.image)
    return dataclasses.replace(split, image=image, info=dataclasses.replace(split.info, sha256=digest(image)))


def attacked(cfg: OpenoodConfig, images: Images) -> Images:
    """Take the images that are attacked; shifted ones are not."""
    few: Callable[[Split], Split] = lambda split: subsets.subset(split, cfg.attack_images)  # noqa: E731
    return images._replace(
        test=few(images.test), ood={name: few(split) for name, split in images.ood.items()}, shifted={}
    )


def network(cfg: OpenoodConfig, test: Split) -> Network:
    """Open the network, and try it on a few test images.

    Raises:
      ValueError: in one line, if it is not there, cannot be read or does not fit the data.
    """
    source = cfg.as_source()
    if source.run:
        found, _ = classifiers.open_classifier(source.run, data_dir=source.data_dir)
        flag, title = "--source.run", source.run
    elif source.checkpoint:
        found, seen = network_source.open_checkpoint(source, test)
        flag, title = "--source.checkpoint", source.checkpoint
        if seen is not None and seen.raised:
            runtime.say(f"warning: {seen.name}: {seen.says}")
    else:
        call = catalog_names.imported(source.function or "", flag="--source.function")
        flag, title = "--source.function", source.function or ""
        found = call if isinstance(call, Network) else Network(_of_function(call), {}, {})
    opened = network_source.checked(found, found, test, flag=flag)
    for warning in opened.flags:
        if warning.raised:
            runtime.say(f"warning: {warning.name}: {warning.says}")
    short = "_".join(title.rstrip("/").replace(":", "/").split("/")[-2:]).replace(" ", "_")
    return found._replace(about={**found.about, "source": title, "method": "standard"}, title=short)


def _of_function(call: Callable) -> Model:
    return network_source.of_function(lambda: call)
