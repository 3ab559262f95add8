"""From networks of other libraries to ours: pure functions of images (b, h, w, c) in [0, 1], normalised inside.

linen           from_flax: flax.linen modules, whose weights lie beside them, to a Model
haiku_pairs     from_haiku: what haiku.transform and transform_with_state return, to a Model
nnx_modules     from_nnx: flax.nnx modules, which hold their weights, to a Network
equinox_modules from_equinox: Equinox modules, which hold their weights and take one image, to a Network
torch_modules   from_torch: PyTorch modules to a function of images, by a callback with its own gradient
inputs          what they share: normalisation, how a network is told to train, optional libraries

A Model trains as ours do, `network.model` from `network.params` and `network.state`; of a Model and its weights,
`types.Network(model, params, state)` is a trained network. All run in evaluation mode unless `train` is set.
"""

from robustjax.models.adapters.equinox_modules import from_equinox as from_equinox
from robustjax.models.adapters.haiku_pairs import from_haiku as from_haiku
from robustjax.models.adapters.linen import TAPS as TAPS
from robustjax.models.adapters.linen import from_flax as from_flax
from robustjax.models.adapters.nnx_modules import from_nnx as from_nnx
from robustjax.models.adapters.torch_modules import from_torch as from_torch
