"""What tradeoffs.benchmark measures of one network on one benchmark: arrays with one value for each image."""

from collections.abc import Callable

import jax
import numpy as np

from experiments.tradeoffs.benchmark_config import BenchmarkConfig
from experiments.tradeoffs.benchmark_networks import Opened
from experiments.tradeoffs.benchmark_sets import IMAGENET_CLASSES, Benchmark
from robustjax.analysis import linear_head, noise, on_scenes, sensitivity
from robustjax.data.scenes import Scenes
from robustjax.logistic_regression import Linear
from robustjax.types import Model, Network

Arrays = dict[str, np.ndarray]
PUBLISHED_SIDE = 224  # pixels, that the l2 norms of the noise are for


class Measurement:
    """Measures networks of one model; what it compiles serves all of them, and all benchmarks."""

    def __init__(self, cfg: BenchmarkConfig, model: Model) -> None:
        self.cfg, self.model = cfg, model
        self._predict = on_scenes.predictor(model, batch_size=cfg.batch_size)
        self._activations = on_scenes.activations(model, batch_size=cfg.batch_size)
        self._testers: dict[tuple[object, ...], Callable[..., on_scenes.UnderNoise]] = {}

    def of(self, opened: Opened, benchmark: Benchmark) -> Arrays:
        """Measure a network on a benchmark.

        Returns:
          label/SET, group/SET, and of each set prediction/SET and restricted/SET, classes of the benchmark or -1; of
          masks foreground/KIND and background/KIND, hits (n, r), and the mean lengths of the noise, length/KIND.
        """
        cfg, network, layer, found = self.cfg, opened.network, None, {}
        to_class = benchmark.to_class
        if to_class is None:
            train = benchmark.sets["train"]
            layer = self.head(network, train)
            found = {
                "head/weight": np.asarray(layer.weight),
                "head/bias": np.asarray(layer.bias),
                "group/train": train.group,
            }
        elif opened.classes != IMAGENET_CLASSES:  # a network of ImageNet-9's own classes
            to_class = None
        found |= self._answers(network, benchmark, to_class, layer)
        if benchmark.name in ("rival10", "pictures", "planted"):
            test = benchmark.sets["test" if benchmark.name == "rival10" else "original"]
            lengths = tuple(cfg.size / PUBLISHED_SIDE * length for length in cfg.l2)
            found |= self._under_noise(network, "sigma", test, noise.gaussian, cfg.sigma, layer)
            found |= self._under_noise(network, "l2", test, noise.of_length, lengths, layer)
        if benchmark.name == "salient":
            for kind, scenes in benchmark.sets.items():
                grown = cfg.grown if kind == "core" else 0
                found |= self._under_noise(
                    network, kind, scenes, noise.gaussian, (cfg.salient_sigma,), None, grown=grown
                )
        return found

    def head(self, network: Network, train: Scenes) -> Linear:
        """Fit a linear head to the deepest activations of the frozen network."""
        cfg, features, classes = self.cfg, self._activations(network, train), len(train.classes)
        if cfg.head == "rival10":
            return linear_head.rival10(features, train.label, classes=classes, seed=cfg.seed)
        return linear_head.converged(features, train.label, classes=classes, strength=cfg.strength)

    def _answers(
        self, network: Network, benchmark: Benchmark, to_class: np.ndarray | None, layer: Linear | None
    ) -> Arrays:
        found: Arrays = {}
        for name, scenes in benchmark.sets.items():
            if name == "train":
                continue
            answer = self._predict(network, scenes, layer, True if to_class is None else to_class >= 0)
            found |= {
                f"label/{name}": scenes.label,
                f"group/{name}": scenes.group,
                f"prediction/{name}": _mapped(answer.all, to_class),
                f"restricted/{name}": _mapped(answer.among, to_class),
            }
        return found

    def _under_noise(
        self,
        network: Network,
        kind: str,
        scenes: Scenes,
        how: sensitivity.Noise,
        levels: tuple[float, ...],
        layer: Linear | None,
        *,
        grown: int = 0,
    ) -> Arrays:
        cfg, asked = self.cfg, (how, levels, grown)
        if asked not in self._testers:
            self._testers[asked] = on_scenes.noise_tester(
                self.model, how, levels, batch_size=cfg.batch_size, trials=cfg.trials, grown=grown
            )
        found = self._testers[asked](jax.random.key(cfg.seed), network, scenes, layer)
        lengths = (found.foreground_length, found.background_length)
        return {
            f"foreground/{kind}": found.foreground,
            f"background/{kind}": found.background,
            f"length/{kind}": np.stack([each.mean(axis=0) for each in lengths]),
        }


def _mapped(prediction: np.ndarray, to_class: np.ndarray | None) -> np.ndarray:
    if to_class is None:
        return prediction
    return np.where(prediction < 0, -1, to_class[np.maximum(prediction, 0)])
