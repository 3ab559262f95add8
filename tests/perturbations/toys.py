"""A linear Gaussian autoencoder at its optimum, where everything is known."""

import jax.numpy as jnp
import numpy as np

from robustjax.models.cvae import CVAE, Gaussian

SPECTRUM = (2.0, 1.0, 0.5, 0.2, 0.12, 0.08, 0.05) + 13 * (0.01,)
D, K, BETA = 20, 6, 0.2


class Linear:
    """Perturbed = x + r with r of known covariance; the decoder is x + W z, the prior N(0, I).

    This is probabilistic PCA with noise of variance beta / 2: a latent is active iff its eigenvalue exceeds that.
    """

    def __init__(self, seed=0, count=4000):
        rng = np.random.default_rng(seed)
        basis = np.linalg.qr(rng.normal(size=(D, D)))[0]
        self.r = rng.normal(size=(count, D)) * np.sqrt(SPECTRUM) @ basis.T
        values, vectors = np.linalg.eigh(self.r.T @ self.r / count)
        self.eigenvalues, vectors = values[::-1], vectors[:, ::-1]
        top = self.eigenvalues[:K]
        self.active = top > BETA / 2
        self.weight = vectors[:, :K] * np.sqrt(np.maximum(top - BETA / 2, 0.0))  # (D, K)
        self.gain = vectors[:, :K] * np.sqrt(np.maximum(top - BETA / 2, 0.0)) / top  # mean of z: r @ gain
        self.variance = np.where(self.active, BETA / (2 * top), 1.0)
        self.params = {
            name: jnp.asarray(value, jnp.float32)
            for name, value in (
                ("weight", self.weight),
                ("gain", self.gain),
                ("log_variance", np.log(self.variance)),
            )
        }
        self.x = np.random.default_rng(seed + 1).normal(size=(count, D))
        shape = (count, 4, 5, 1)
        self.image = jnp.asarray(self.x.reshape(shape), jnp.float32)
        self.perturbed = jnp.asarray((self.x + self.r).reshape(shape), jnp.float32)

    def model(self):
        """Write it with the interface of all autoencoders; images are (4, 5, 1)."""

        def init(key):
            return self.params, {}

        def prior(params, state, x, *inputs, train=False):
            zero = jnp.zeros((x.shape[0], K), x.dtype)
            return Gaussian(zero, zero), state

        def posterior(params, state, x, *inputs, train=False):
            mean = (inputs[0] - x).reshape(x.shape[0], -1) @ params["gain"]
            return Gaussian(mean, jnp.broadcast_to(params["log_variance"], mean.shape)), state

        def decode(params, state, x, *inputs, train=False):
            return x + (inputs[0] @ params["weight"].T).reshape(x.shape), state

        return CVAE(init, prior, posterior, decode, lambda raw: raw, K, (4, 5, 1))

    def squared_error(self, r, u):
        """Give |r - W u|^2."""
        return float(np.sum((r - self.weight @ u) ** 2))

    def extreme(self, r, radius, sign):
        """Find the least (sign 1) or largest (-1) |r - W u|^2 with |u| <= radius by its secular equation."""
        gram, pull = self.weight.T @ self.weight, self.weight.T @ r
        values, vectors = np.linalg.eigh(gram)
        along = vectors.T @ pull

        def point(m):  # (gram + m I) u = pull; m >= 0 for the least, m < -max(values) for the largest
            return along / (values + m)

        free = np.linalg.lstsq(self.weight, r, rcond=None)[0]
        if sign > 0 and np.linalg.norm(free) <= radius:
            return self.squared_error(r, free)
        near, far = (1e-12, 1e6) if sign > 0 else (-values.max() - 1e-9, -1e6)
        for _ in range(200):
            middle = 0.5 * (near + far)
            near, far = (middle, far) if np.linalg.norm(point(middle)) > radius else (near, middle)
        return self.squared_error(r, vectors @ point(far))
