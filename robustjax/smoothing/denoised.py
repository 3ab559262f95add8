"""Any classifier, smoothed: a denoiser before it takes the noise away that the certificate needs."""

import math
from collections.abc import Callable

import jax.numpy as jnp

from robustjax import checks
from robustjax.models.diffusion import Predict, Process
from robustjax.types import Images, LogitsFn, Params

Denoise = Callable[[Images], Images]  # noisy images -> images in [0, 1]


def denoised(logits_fn: LogitsFn, denoise: Denoise) -> LogitsFn:
    """Put a denoiser before a classifier: what `votes` is to be given, with the same noise.

    The certificate holds for the two together, whatever the denoiser is, as long as it draws nothing.

    Reference: Salman et al. 2020, arXiv:2003.01908.
    """
    return lambda x: logits_fn(denoise(x))


def one_step(predict: Predict, params: Params, sigma: float, *, process: Process | None = None) -> Denoise:
    """Build a denoiser of one step of a diffusion, at the time whose noise is that of the certificate.

    Images in [0, 1] with noise sigma are 2 x - 1 with noise 2 sigma; times sqrt(a) with a = 1 / (1 + 4 sigma^2) they
    are a diffusion's images at the time t where a(t) = a. The predicted noise is taken away there, all at once.

    Args:
      predict: the network that predicts the noise in images of [-1, 1] from their times.
      params: its weights.
      sigma: standard deviation of the noise that is added to images in [0, 1].
      process: the diffusion it was trained for; by default the published one.
    Returns:
      noisy images -> images, clipped to [0, 1].
    Raises:
      ValueError: if sigma is not positive, or the diffusion never has so much noise.

    Reference: Carlini et al. 2023, arXiv:2206.10550, algorithm 1.
    """
    diffusion = Process() if process is None else process
    checks.positive("one_step", "sigma", sigma)
    t = time_of(diffusion, sigma)
    kept = jnp.float32(1.0 / (1.0 + 4.0 * sigma**2))

    def denoise(x: Images) -> Images:
        at = jnp.sqrt(kept) * (2.0 * x - 1.0)
        noise = predict(params, at, jnp.full(len(x), t, jnp.float32))
        clean = (at - jnp.sqrt(1.0 - kept) * noise) / jnp.sqrt(kept)
        return jnp.clip(0.5 * (clean + 1.0), 0.0, 1.0)

    return denoise


def time_of(process: Process, sigma: float) -> float:
    """Find the time whose images are those of [0, 1] under noise sigma, scaled.

    -log a(t) = low t + (high - low) t^2 / 2 is log(1 + 4 sigma^2) there.

    Raises:
      ValueError: if that is after the end, t = 1.
    """
    wanted = math.log1p(4.0 * sigma**2)
    low, slope = process.low, process.high - process.low
    t = 2.0 * wanted / (low + math.sqrt(low**2 + 2.0 * slope * wanted))  # also where the rate is constant
    if t > 1.0:
        most = 0.5 * math.sqrt(math.expm1(0.5 * (process.low + process.high)))
        raise ValueError(
            f"one_step: sigma is {sigma:g}, must be at most {most:.3g}, the noise at the end of the diffusion"
        )
    return t
