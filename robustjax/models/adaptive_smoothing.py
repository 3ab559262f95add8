"""Adaptive smoothing: a third network decides, image by image, how far to trust an accurate or a robust network."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from robustjax.models import layers
from robustjax.models.adapters import from_flax, inputs
from robustjax.models.adapters.linen import TAPS
from robustjax.models.layers import DType
from robustjax.models.preactivated import Block, Form
from robustjax.types import Images, Model, Params, State

Taps = dict[str, Array]
READ = ("stage1", "stage2")  # the maps of either network that the mixing network reads
FORM = Form(late=True)
TINY = 1e-30


class Part(NamedTuple):
    """A network of a mixture: a flax module called as (x, train), and its normalisation per channel."""

    module: nn.Module
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


class Weighting(NamedTuple):
    """How the number g that the mixing network gives becomes the weight of the robust network.

    It is alpha = least + span sigmoid(gamma_mean + gamma_scale g); probabilities of either network are those of its
    logits times a scale.

    Attributes:
      gamma_scale, gamma_mean: of g, whose mean is 0 and whose variance is 1 on the training set.
      span, least: of alpha.
      accurate_scale, robust_scale: of logits.
    """

    gamma_scale: float = 1.0
    gamma_mean: float = 0.0
    span: float = 1.0
    least: float = 0.0
    accurate_scale: float = 1.0
    robust_scale: float = 1.0


PLAIN = Weighting()


class MixingNetwork(nn.Module):
    """Groups of two pre-activation blocks that halve the maps; the second pair of maps joins after the first group.

    What it gives is normalised to mean 0 and variance 1, as over the training set.
    """

    widths: tuple[int, ...]
    dtype: DType

    @nn.compact
    def __call__(
        self, first: Float[Array, "b h w c"], second: Float[Array, "b i j d"], train: bool = False
    ) -> Float[Array, "b"]:
        x = first
        for i, width in enumerate(self.widths, start=1):
            for j in range(2):
                block = Block(width, 2 - j, FORM, False, self.dtype, name=f"stage{i}_block{j}")
                x = block(x, train)
            if i == 1:
                x = x + layers.conv(second, width, 1, dtype=self.dtype, name="conv1x1")
        x = layers.linear(x.mean(axis=(1, 2)), 1, bias=False, dtype=self.dtype, name="head")
        return layers.batch_norm(x, train=train, affine=False, name="norm")[:, 0]


def adaptive_smoothing(
    accurate: Part,
    robust: Part,
    *,
    widths: tuple[int, ...],
    shape: tuple[int, ...],
    weighting: Weighting = PLAIN,
    dtype: DType = jnp.float32,
) -> Model:
    """Build the mixture whose logits are log((1 - alpha(x)) p(x) + alpha(x) q(x)).

    p and q are the probabilities of the accurate and of the robust network, alpha comes from their maps after the first
    and the second group of blocks. Gradients flow through all three. Parameters and state are dictionaries: "0" of the
    accurate, "1" of the robust, "2" of the mixing network.

    Args:
      accurate, robust: two networks with the same classes, whose maps named stage1, and stage2, are of the same size.
      widths: channels of the groups of the mixing network.
      shape: of one image, (h, w, c).
      weighting: from what the mixing network gives to alpha.
      dtype: what the mixing network computes in.
    Raises:
      ValueError: unless 0 <= least, 0 <= span, least + span <= 1 and both scales are positive.

    Reference: Bai et al. 2023, arXiv:2301.12554. Theirs clamps alpha's input in training, and leaves span and least
      away; here training and evaluation compute the same.
    """
    least, span = weighting.least, weighting.span
    if min(least, span) < 0 or least + span > 1 + 1e-9:
        raise ValueError(
            f"adaptive_smoothing: alpha runs from {least} to {least + span}, must be within 0 to 1"
        )
    scales = {"0": weighting.accurate_scale, "1": weighting.robust_scale}
    if min(scales.values()) <= 0:
        raise ValueError(
            f"adaptive_smoothing: logits are scaled by {list(scales.values())}, must be positive"
        )
    parts = {"0": accurate, "1": robust}
    alone = {
        name: from_flax(part.module, shape=shape, mean=part.mean, std=part.std)
        for name, part in parts.items()
    }
    normalise = {
        name: inputs.normalisation("adaptive_smoothing", part.mean, part.std, channels=shape[-1])
        for name, part in parts.items()
    }
    mixing = MixingNetwork(widths, dtype)

    def seen(name: str, params: Params, state: State, x: Images, train: bool) -> tuple[Array, Taps, State]:
        """Run a part once, for its logits and its maps."""
        changing = list(state[name]) if train else []
        variables = {"params": params[name], **state[name]}
        logits, after = parts[name].module.apply(
            variables, normalise[name](x), train, mutable=[TAPS, *changing]
        )
        after = dict(after)
        taps = {tap: values[-1] for tap, values in after.pop(TAPS).items()}
        return logits.astype(jnp.float32), taps, {**state[name], **after}

    def joined(taps: list[Taps]) -> list[Array]:
        return [jnp.concatenate([of[tap] for of in taps], axis=-1) for tap in READ]

    def init(key):
        keys = jax.random.split(key, 3)
        drawn = {name: alone[name].init(k) for name, k in zip(parts, keys, strict=False)}
        params, state = ({name: pair[i] for name, pair in drawn.items()} for i in range(2))
        x = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
        maps = jax.eval_shape(lambda x: joined([seen(n, params, state, x, False)[1] for n in parts]), x)
        variables = dict(mixing.init(keys[2], *(jnp.zeros(of.shape, of.dtype) for of in maps)))
        return params | {"2": variables.pop("params")}, state | {"2": variables}

    def apply(params, state, x, *, train=False, key=None):
        runs = {name: seen(name, params, state, x, train) for name in parts}
        maps = joined([taps for _, taps, _ in runs.values()])
        variables = {"params": params["2"], **state["2"]}
        g, after = mixing.apply(variables, *maps, train, mutable=list(state["2"]) if train else [])
        gamma = weighting.gamma_mean + weighting.gamma_scale * g.astype(jnp.float32)
        # 1 - alpha from sigmoid(-gamma), which keeps its digits where alpha is near 1.
        shares = (max(1 - least - span, 0.0) + span * nn.sigmoid(-gamma), least + span * nn.sigmoid(gamma))
        logs = [
            jnp.log(jnp.maximum(share, TINY))[:, None] + jax.nn.log_softmax(scales[name] * logits)
            for share, (name, (logits, _, _)) in zip(shares, runs.items(), strict=True)
        ]
        states = {name: after for name, (_, _, after) in runs.items()}
        return jnp.logaddexp(*logs), states | {"2": {**state["2"], **dict(after)}}

    def features(params, state, x) -> Taps:
        taps = [alone[name].features(params[name], state[name], x) for name in parts]
        return {"stage0": jnp.concatenate([of[max(of)] for of in taps], axis=-1)}

    return Model(init, apply, features)
