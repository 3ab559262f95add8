"""Do networks rely on backgrounds? ImageNet-9, RIVAL10, Salient ImageNet, Waterbirds, ObjectNet, digits on textures.

    python -m experiments.tradeoffs.benchmark digits --networks runs/mine package.module:network --out runs/benchmark
    python -m experiments.tradeoffs.benchmark imagenet --networks resnet50_l2_eps0 resnet50_l2_eps3 mine.pt@linf:4/255
    python -m experiments.tradeoffs.benchmark cifar10 --networks runs/cifar10@linf:8/255
    python -m experiments.tradeoffs.benchmark paper

Networks are run folders of classification.train, PyTorch weights, functions `package.module:name`, or names of the
zoo of robust ImageNet networks, whose files lie in --zoo; the preset "paper" has its 20 adversarially trained networks
and the two trained on clean images. Where a benchmark has classes of its own, a linear head is fitted to the frozen
activations of each network. Nothing is downloaded: robustjax/data says of each benchmark which folders it expects.

Each network on each benchmark is a file of the folder, measured/BENCHMARK/NETWORK.npz: start again with the same --out
and only what is missing is measured. report.html has a table and the figures of every benchmark.
"""

import functools
import hashlib
import json

import numpy as np

from experiments.shared import command_line
from experiments.tradeoffs import benchmark_measures, benchmark_networks, benchmark_report, benchmark_sets
from experiments.tradeoffs.benchmark_config import BENCHMARK_MAY_DIFFER as MAY_DIFFER
from experiments.tradeoffs.benchmark_config import BENCHMARK_PRESETS as PRESETS
from experiments.tradeoffs.benchmark_config import BenchmarkConfig
from robustjax import checks, runtime
from robustjax.data.scenes import Scenes
from robustjax.evaluation.identity import difference, identity
from robustjax.runtime import strict_json
from robustjax.runtime.stopping import stopping
from robustjax.types import Flag


def main(cfg: BenchmarkConfig) -> int:
    """Check everything, measure what is missing, then report."""
    runtime.cache_compiled()
    # --- benchmarks and networks, checked before any work ---
    benchmarks = benchmark_sets.opened(cfg)
    entries = [benchmark_networks.entry(words, cfg.zoo) for words in cfg.networks]
    flags: dict[str, tuple[Flag, ...]] = {}
    for entry in entries:
        opened = benchmark_networks.open_network(
            entry, benchmarks[0].first, classes=cfg.classes, data_dir=cfg.data_dir
        )
        for benchmark in benchmarks:
            benchmark.require(entry.name, classes=opened.classes, features=opened.features)
        flags[entry.name] = opened.flags
        for flag in opened.flags:
            if flag.raised:
                runtime.say(f"warning: {entry.name}: {flag.name}: {flag.says}")

    # --- measurement ---
    found: dict[str, dict[str, dict[str, np.ndarray]]] = {b.name: {} for b in benchmarks}
    measurement = functools.cache(functools.partial(benchmark_measures.Measurement, cfg))
    with runtime.Run(cfg.out, cfg, may_differ=MAY_DIFFER) as run, stopping() as stop:
        for entry in entries:
            opened = benchmark_networks.open_network(
                entry, benchmarks[0].first, classes=cfg.classes, data_dir=cfg.data_dir
            )
            for benchmark in benchmarks:
                some = benchmark.first
                rows = checks.evenly(len(some), 32)
                who = identity(opened.network, some.image(rows), some.index[rows])
                what = seen(benchmark)

                def measure(opened=opened, benchmark=benchmark, who=who, what=what):
                    if stop.requested:
                        return None
                    runtime.say(f"measuring {opened.entry.name} on {benchmark.title}")
                    arrays = measurement(opened.network.model).of(opened, benchmark)
                    return arrays | {"identity": np.asarray(strict_json.text(who)), "seen": np.asarray(what)}

                name = f"measured/{benchmark.name}/{entry.name}"
                arrays = run.cached(name, measure)
                if arrays is None:
                    runtime.say("stopped; the same command goes on with this network")
                    return stop.exit_code
                if str(arrays["seen"]) != what:
                    raise ValueError(
                        f"{cfg.out} holds {name}.npz of other images or labels; choose another --out, or remove it"
                    )
                if why := difference(json.loads(str(arrays["identity"])), who):
                    raise ValueError(
                        f"{cfg.out} holds {name}.npz of another network ({why}); write NAME=... before this one"
                    )
                found[benchmark.name][entry.name] = arrays

        # --- report ---
        page = benchmark_report.report(cfg, entries, benchmarks, found, flags)
        runtime.say(f"report: {page.write(run.folder / 'report.html')}")
    return 0


def seen(benchmark: benchmark_sets.Benchmark) -> str:
    """Hash what a benchmark asks: labels, places, the map of classes, and a few pictures of each set."""

    def words(scenes: Scenes) -> list[bytes]:
        few = scenes.image(checks.evenly(len(scenes), 8))
        return [np.ascontiguousarray(a).tobytes() for a in (scenes.label, scenes.place, scenes.index, few)]

    found = hashlib.sha256()
    for name, scenes in benchmark.sets.items():
        found.update(name.encode())
        for part in words(scenes):
            found.update(part)
    if benchmark.to_class is not None:
        found.update(benchmark.to_class.tobytes())
    return found.hexdigest()[:16]


if __name__ == "__main__":
    command_line.script(main, PRESETS, __doc__)
