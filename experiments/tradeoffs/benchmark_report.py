"""The report of tradeoffs.benchmark: for each benchmark its table and its figures over the radius of training."""

from collections.abc import Mapping, Sequence

import numpy as np

from experiments.tradeoffs.benchmark_config import BenchmarkConfig
from experiments.tradeoffs.benchmark_networks import Entry
from experiments.tradeoffs.benchmark_results import Arrays, Number, effective, numbers, rfs_over_levels
from experiments.tradeoffs.benchmark_sets import Benchmark
from experiments.tradeoffs.results import with_interval
from robustjax import binomial
from robustjax.analysis.intervals import Estimate
from robustjax.runtime.report import Report
from robustjax.runtime.subplots import Line, Subplot, subplot_grid
from robustjax.types import Flag

Found = Mapping[str, Mapping[str, Arrays]]  # by benchmark, by network
ABOUT = {
    "imagenet9": "Foregrounds of nine classes on backgrounds of their own class (mixed_same), of a random one "
    "(mixed_rand) and of the next (mixed_next), alone, and without. A prediction of one of ImageNet's 1,000 classes is "
    "mapped to the nine; the 630 classes that belong to none count as errors, as published, so that a network whose "
    "errors leave the nine looks as if it relied on backgrounds: the same among the 370 others stands beside it.",
    "rival10": "Noise on the object or on the rest of the image, of equal strength. RFS is the difference of the two "
    "accuracies over the largest that their mean allows: high where noise on the object hurts more. It also depends "
    "on how much noise a network bears at all, which adversarial training raises, so compare it at equal accuracy. "
    "Noise of a standard deviation is clipped to [0, 1] and not bounded, although published code calls it linf.",
    "salient": "Noise on the features that people called core, and on the rest. Accuracy that is left under noise on "
    "the core is called spurious accuracy, that under noise elsewhere core accuracy; RCS compares them as RFS does.",
    "waterbirds": "Birds of the land and of the water on backgrounds of both. In training nearly all are at their "
    "usual place. The average weighs the four groups as training does, the worst group is the hardest of the four.",
    "objectnet": "Household objects in unusual places, turns and views. A prediction counts as right if it is any of "
    "the ImageNet classes that are mapped to the object's. The drop is from ImageNet's validation images of the same "
    "classes; effective robustness is the accuracy beyond what a line through the networks that were trained on clean "
    "images predicts of their accuracy on ImageNet.",
    "pictures": "Pictures, shrunk, on photographs of textures that agree with the class on 80 % of the images that the "
    "head was fitted to; those of the test are other photographs.",
    "planted": "Digits on textures that agree with the class on 80 % of the images that the head was fitted to.",
}


def report(
    cfg: BenchmarkConfig, entries: Sequence[Entry], benchmarks: Sequence[Benchmark], found: Found,
    flags: Mapping[str, Sequence[Flag]],
) -> Report:  # fmt: skip
    """Write the report for a reader who has not read the papers."""
    page = Report("Do these networks rely on backgrounds?", cfg)
    page.text(
        f"{len(entries)} network{'s' if len(entries) > 1 else ''} on {', '.join(b.title for b in benchmarks)}. "
        "Adversarial training hardens a network against small changes of its input; the question is whether it then "
        "relies more on what usually surrounds an object. Intervals are 95 % bootstrap intervals over test images."
    )
    warned = [
        {"network": name, "seen": flag.name, "says": flag.says}
        for name, each in flags.items()
        for flag in each
        if flag.raised
    ]
    if warned:
        page.table(warned, caption="What to doubt.")
    every = numbers(cfg)
    _directions(page, entries, benchmarks, found, every)
    for benchmark in benchmarks:
        _benchmark(page, cfg, entries, benchmark, found[benchmark.name], every[benchmark.name])
    page.scope(
        attacked=[],
        attacks=[],
        not_attacked=["nothing here is attacked: networks see natural images, and noise where it is said"],
    )
    return page


def _benchmark(
    page: Report,
    cfg: BenchmarkConfig,
    entries: Sequence[Entry],
    benchmark: Benchmark,
    found: Mapping[str, Arrays],
    wanted: Sequence[Number],
) -> None:
    page.section(benchmark.title)
    page.text(ABOUT[benchmark.name])
    page.text(f"Images: {benchmark.images}.")
    if benchmark.to_class is None:
        page.text(
            "A linear head was fitted to the frozen activations below each network's last layer: "
            + (
                f"logistic regression to convergence, l2 penalty, C = {cfg.strength:g}."
                if cfg.head == "converged"
                else "Adam as RIVAL10's authors do, 10 epochs at a rate of 1e-5."
            )
        )
    estimates = {e.name: {n.title: n.of(found[e.name]) for n in wanted} for e in entries}
    extra = effective(found, {e.name: e.eps == 0 for e in entries}) if benchmark.name == "objectnet" else {}
    rows = [
        {"network": e.name, "training": training(e)}
        | {title: with_interval(x) for title, x in estimates[e.name].items() if x is not None}
        | ({"effective robustness": extra[e.name]} if e.name in extra else {})
        for e in entries
    ]
    page.table(rows, caption=f"{benchmark.title}: accuracies as shares of the images.")
    shown = [n for n in wanted if n.expected or n in wanted[:2]]
    if extra:  # no interval: the line itself is estimated
        beyond = Number("effective robustness", "accuracy", lambda arrays: None)
        shown.append(beyond)
        for name, value in extra.items():
            estimates[name][beyond.title] = Estimate(value, value, value)
    subplots = [plot for n in shown if (plot := _over_radii(entries, estimates, n)) is not None]
    if subplots:
        page.picture(
            subplot_grid([p for pair in subplots for p in pair], across=2),
            name=benchmark.name,
            caption="Over the radius of training; 0 is training on clean images. Linf radii are in 255ths.",
        )
    for kind, levels, label in (("sigma", cfg.sigma, "standard deviation of the noise"),
                                ("l2", cfg.l2, "l2 norm of the noise, for 224 x 224 pixels")):  # fmt: skip
        test = "label/test" if benchmark.name == "rival10" else "label/original"
        if f"foreground/{kind}" in found[entries[0].name] and len(levels) > 1:
            page.picture(
                _over_levels(cfg, entries, found, kind, levels, test, label),
                name=f"{benchmark.name}_{kind}",
                caption="RFS over the strength of the noise, one line for each network.",
            )
            page.table(
                [
                    {"network": e.name}
                    | {
                        f"{level:.3g}": f"{front:.3g}, {back:.3g}"
                        for level, front, back in zip(levels, *found[e.name][f"length/{kind}"], strict=True)
                    }
                    for e in entries[:1]
                ],
                caption=f"What the noise changed after clipping: mean l2 norm on the object, on the rest, by {label}.",
            )


def training(entry: Entry) -> str:
    """Say what a network was trained against."""
    if entry.eps is None:
        return "not said"
    if not entry.eps:
        return "clean images"
    return (
        f"{entry.norm} {255 * entry.eps:.3g}/255" if entry.norm == "linf" else f"{entry.norm} {entry.eps:.3g}"
    )


def _over_radii(
    entries: Sequence[Entry], estimates: Mapping[str, Mapping[str, Estimate | None]], number: Number
) -> tuple[Subplot, ...] | None:
    """Draw a number over the radii, one subplot for each norm, one line for each series."""
    plots = []
    for norm, unit in (("l2", 1.0), ("linf", 255.0)):
        lines = {}
        for series in dict.fromkeys(e.series for e in entries):
            points = sorted(
                (e.eps * unit, x)
                for e in entries
                if e.series == series and e.eps is not None and (e.norm == norm or not e.eps)
                if (x := estimates[e.name].get(number.title)) is not None
            )
            if any(eps for eps, _ in points):
                value, low, high = (
                    [getattr(x, part) for _, x in points] for part in ("value", "low", "high")
                )
                lines[series] = Line([eps for eps, _ in points], value, low, high)
        if lines:
            radius = "radius in l2" if norm == "l2" else "radius in linf, 255ths"
            plots.append(Subplot(number.title, lines, radius, number.unit))
    return tuple(plots) or None


def _over_levels(
    cfg: BenchmarkConfig,
    entries: Sequence[Entry],
    found: Mapping[str, Arrays],
    kind: str,
    levels: Sequence[float],
    label: str,
    xlabel: str,
) -> bytes:
    plots = []
    for series in dict.fromkeys(e.series for e in entries):
        for norm in ("l2", "linf"):
            those = [
                e for e in entries if e.series == series and (e.norm == norm or not e.eps or e.norm is None)
            ]
            if norm == "linf" and all(e.norm != "linf" for e in those):
                continue
            lines = {}
            for e in those:
                over = rfs_over_levels(found[e.name], kind, label, cfg.resamples)
                name = (
                    training(e) if e.eps is not None and len(those) > 1 and series != "networks" else e.name
                )
                lines[name] = Line(
                    levels, *([getattr(x, part) for x in over] for part in ("value", "low", "high"))
                )
            plots.append(Subplot(f"{series}, {norm}", lines, xlabel, "RFS", (-1, 1)))
    return subplot_grid(plots, across=2)


def _directions(
    page: Report,
    entries: Sequence[Entry],
    benchmarks: Sequence[Benchmark],
    found: Found,
    every: Mapping[str, Sequence[Number]],
) -> None:
    """Count how many adversarially trained networks differ from that of their series as the paper says."""
    standard = {e.series: e for e in entries if e.eps == 0}
    trained = [e for e in entries if e.eps and e.series in standard]
    rows = []
    for benchmark in benchmarks:
        extra = (
            effective(found["objectnet"], {e.name: e.eps == 0 for e in entries})
            if benchmark.name == "objectnet"
            else {}
        )
        for number in (n for n in every[benchmark.name] if n.expected):
            value = {
                e.name: x.value
                for e in entries
                if (x := number.of(found[benchmark.name][e.name])) is not None and np.isfinite(x.value)
            }
            rows += _direction(benchmark.title, number.title, number.expected, trained, standard, value)
        if extra:
            rows += _direction(benchmark.title, "effective robustness", -1, trained, standard, extra)
    if rows:
        page.section("Does adversarial training make networks rely more on backgrounds?")
        page.table(
            rows,
            caption="How many of the adversarially trained networks lie on the expected side of the network of the "
            "same architecture that was trained on clean images; p is that of a sign test, one-sided. Networks of one "
            "architecture share that comparison, so p is too small: read it as a count.",
        )


def _direction(
    title: str,
    number: str,
    expected: int,
    trained: Sequence[Entry],
    standard: Mapping[str, Entry],
    value: Mapping[str, float],
) -> list[dict[str, str]]:
    changes = [
        expected * (value[e.name] - value[standard[e.series].name])
        for e in trained
        if e.name in value and standard[e.series].name in value
    ]
    if not changes:
        return []
    hits, count = sum(c > 0 for c in changes), sum(c != 0 for c in changes)
    p = float(binomial.at_most(count - hits, count, 0.5)) if count else 1.0
    return [
        {
            "benchmark": title,
            "number": number,
            "expected": "higher" if expected > 0 else "lower",
            "networks": f"{hits} of {len(changes)}",
            "p": f"{p:.3g}",
        }
    ]
