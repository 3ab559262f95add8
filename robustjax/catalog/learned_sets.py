"""What learned perturbation sets are made from, by name: pairs of images, and autoencoders for them."""

from collections.abc import Callable

from robustjax.models import cvae_rectangle, cvae_small, cvae_stn, unet
from robustjax.models.cvae import CVAE
from robustjax.perturbations import pairs
from robustjax.perturbations.relit import relit

PAIRS: dict[str, Callable[[], pairs.Pairs]] = {
    "linf": lambda: pairs.linf(0.3),
    "rts": pairs.rotated_shifted_scaled,
    "warps": lambda: pairs.warped((20.0, 0.7, 0.7, 0.1, 10.0), pad=1),
    "lighting": pairs.lighting,
    "relit": relit,
    "corrupted": pairs.corrupted,
    "corrupted_twice": pairs.corrupted_twice,
    "corrupted_or_clean": lambda: pairs.corrupted_twice(originals=True),
    # One corruption of each kind for each image, drawn once, as in the arrays that the authors store.
    "corrupted_fixed": lambda: pairs.corrupted(fixed=0),
    "corrupted_twice_fixed": lambda: pairs.corrupted_twice(fixed=0),
    "corrupted_or_clean_fixed": lambda: pairs.corrupted_twice(originals=True, fixed=0),
}
AUTOENCODERS: dict[str, Callable[[tuple[int, ...]], CVAE]] = {  # from the shape of an image, (h, w, c)
    "dense": lambda shape: cvae_small.dense(shape=shape),
    "mnist_dense": lambda shape: cvae_small.mnist_dense(),
    "mnist_conv": lambda shape: cvae_small.mnist_conv(),
    "stn": lambda shape: cvae_stn.mnist_stn(shape=shape),
    "rectangle": lambda shape: cvae_rectangle.rectangle(shape=shape),
    "rectangle_small": lambda shape: cvae_rectangle.rectangle(
        shape=shape, latents=128, wide=32, blocks=2, side=2
    ),
    "scenes": lambda shape: unet.scenes(shape=shape),
    "scenes_small": lambda shape: unet.scenes(
        shape=shape, widths=(16, 32, 32), latents=(16, 8, 8), grids=((8, 12), (8, 12), (4, 6))
    ),
}
