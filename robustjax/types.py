"""The names that the whole package is written in: arrays, bundles and the shapes of its functions.

Nothing here computes. A function type says what a function takes and returns; any callable of that
shape is one, there is nothing to inherit from.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, PRNGKeyArray, PyTree, Scalar, UInt8

Images = Float[Array, "b h w c"]  # float32, NHWC, in [0, 1]
Inputs = Float[Array, "b ..."]  # of a network: images, or what takes their place, such as latents
OODImages = Float[Array, "m h w c"]  # beside ID images, of which there may be another number
Logits = Float[Array, "b k"]
OODLogits = Float[Array, "m k"]
Outputs = Float[Array, "b ... k"]  # logits, or those of each pixel
Labels = Int[Array, "b"]
SoftLabels = Float[Array, "b k"]  # a distribution over the classes for each image, as of mixed images
PerExample = Float[Array, "b"]
Mask = Bool[Array, "b"]
Bytes = UInt8[Array, "b h w c"]
Keys = PRNGKeyArray | Key[Array, "b"]  # one key, or one per example
Number = (
    float | np.floating | Scalar
)  # a setting that may be swept: one number, or a traced array of shape ()
Radius = Number | PerExample  # one for all, or one per example
Params = PyTree
State = PyTree  # what a forward pass in train mode updates: running BatchNorm statistics
Metrics = dict[str, Array]

LogitsFn = Callable[[Images], Logits]
Objective = Callable[[Array], PerExample]


class Found(NamedTuple):
    """What a solver found: the strongest point per example, always feasible, and its objective value."""

    x: Array
    value: PerExample


class Batch(NamedTuple):
    """Images with their labels."""

    image: Images
    label: Labels


class Pair(NamedTuple):
    """A batch of in-distribution (ID) images beside out-of-distribution (OOD) images."""

    id: Batch
    ood: OODImages


@runtime_checkable
class Init(Protocol):
    """Draw the parameters and the initial state of a network."""

    def __call__(self, key: PRNGKeyArray) -> tuple[Params, State]: ...


@runtime_checkable
class Apply(Protocol):
    """Run a network; in train mode the second result is the updated state, otherwise `state` itself."""

    def __call__(
        self, params: Params, state: State, x: Images, *, train: bool = False, key: PRNGKeyArray | None = None
    ) -> tuple[Array, State]: ...


class Model(NamedTuple):
    """A network as pure functions, input normalisation inside: the seam to every network library.

    `features(params, state, x)` runs in evaluation mode and returns the named inner activations that
    detectors read, global average pooled to (b, c), in the order of depth. `maps` returns them before pooling,
    (b, ..., c); None where a network does not show them.
    """

    init: Init
    apply: Apply
    features: Callable[[Params, State, Images], dict[str, Array]]
    maps: Callable[[Params, State, Images], dict[str, Array]] | None = None


class Network(NamedTuple):
    """A trained network and what identifies it: what is evaluated, certified, translated for or attacked.

    Attributes:
      model: the network; a plain function of images enters as a model without parameters.
      params, state: what it was trained to.
      about: where it comes from, as plain data for reports.
      title: what a headline calls it.
    """

    model: Model
    params: Params
    state: State
    about: dict[str, Any] = {}  # noqa: RUF012  read only
    title: str = ""

    @property
    def logits_fn(self) -> LogitsFn:
        """Close the model over its parameters, in evaluation mode."""
        return frozen(self.model, self.params, self.state)

    def __call__(self, x: Images) -> Logits:
        """Run the network in evaluation mode; to compile it, take `logits_fn`."""
        return self.logits_fn(x)


class Flag(NamedTuple):
    """A sign of masked gradients or of another reason to doubt a number, or its absence.

    Attributes:
      name: of the check.
      raised: whether the sign is present.
      says: what was seen, as a sentence for a reader.
      evidence: the numbers behind it, all finite; shares are between 0 and 1.
    """

    name: str
    raised: bool
    says: str
    evidence: dict[str, float]


@runtime_checkable
class Ascent(Protocol):
    """Maximise an objective per example around x. `key` is one key, or one key per example."""

    def __call__(self, key: Keys, objective: Objective, x: Array) -> Found: ...


@runtime_checkable
class Attack(Protocol):
    """Look for points around x that a classifier gets wrong. `key` is one key, or one key per example."""

    def __call__(self, key: Keys, logits_fn: LogitsFn, x: Array, y: Labels) -> Found: ...


@runtime_checkable
class Loss(Protocol):
    """Average a training objective over a batch, as `value_and_grad(has_aux=True)` wants it."""

    def __call__(
        self, params: Params, state: State, batch: Any, key: PRNGKeyArray
    ) -> tuple[Scalar, tuple[State, Metrics]]: ...


def frozen(model: Model, params: Params, state: State) -> LogitsFn:
    """Close a model over its parameters: all that an attack knows of a network.

    It runs in evaluation mode and no gradient flows to the parameters, so that an attack inside a loss costs
    input gradients only. The logits are float32 whatever the network computes in.
    """
    params, state = jax.lax.stop_gradient((params, state))

    def logits_fn(x: Inputs) -> Outputs:
        return model.apply(params, state, x)[0].astype(jnp.float32)

    return logits_fn
