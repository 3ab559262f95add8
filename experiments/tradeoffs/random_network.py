"""A small convolutional network with random weights, for the smoke form of tradeoffs.benchmark."""

import jax

from robustjax.models.small import strided
from robustjax.types import Network

SIDE = 16  # pixels

_model = strided(classes=10, shape=(SIDE, SIDE, 3), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
network = Network(_model, *_model.init(jax.random.key(0)), {"weights": "random"}, "random weights")
