"""From a PyTorch module to a function of images: a callback to the host, with the module's own gradient."""

import importlib
import math
import threading
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robustjax.models.adapters import inputs
from robustjax.types import Images, Logits


def from_torch(
    module: Any, *, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
) -> Callable[[Images], Logits]:
    """Turn a `torch.nn.Module` into a function of images that JAX can differentiate, compile and map.

    The function calls back to the host, where the module runs on its own device: images go there as float32
    (b, c, h, w), logits and input gradients come back. A gradient costs one forward and one backward pass, as in
    PyTorch. Weights are read in every call, so a module that is trained further is seen as it then is. It cannot be
    trained from here, nor differentiated twice.

    Give the process at least two CPU cores: on one (`taskset -c 0`) JAX's callback can wait for ever for the copy of
    its own arguments: the only thread that could make it is busy with the program (seen with jax 0.10.2).

    Args:
      module: the network, from (b, c, h, w) to (b, k). It runs in evaluation mode, whatever mode it is in, and is left
        in the mode that it was in.
      mean, std: per channel of images in [0, 1]; the module sees (x - mean) / std. None: 0 and 1.
    Returns:
      A function from images (b, h, w, c) to float32 logits (b, k), which works under jit, vmap, grad and in loops.
    Raises:
      ImportError: if PyTorch is not installed.
      ValueError: if it is no torch module, or a std is not positive; when called, if it fails on images.
    """
    torch = inputs.library("from_torch", "torch")
    if not isinstance(module, torch.nn.Module):
        raise ValueError(f"from_torch: module is a {type(module).__name__}, must be a torch.nn.Module")
    normalise = inputs.normalisation("from_torch", mean, std)
    host = _Host(torch, module)

    def forward(x: Images) -> Logits:
        return _called_back(host.forward, host.width(x.shape[1:]), x)

    @jax.custom_vjp
    def logits_fn(x: Images) -> Logits:
        return forward(x)

    def ahead(x: Images) -> tuple[Logits, Images]:
        return _called_back(host.forward_to_return, host.width(x.shape[1:]), x), x

    def back(x: Images, g: Logits) -> tuple[Images]:
        like = jax.ShapeDtypeStruct(x.shape, jnp.float32)
        return (jax.pure_callback(host.backward, like, x, g, vmap_method="broadcast_all") + 0 * x,)

    logits_fn.defvjp(ahead, back)
    return lambda x: logits_fn(normalise(x))


def _called_back(call: Callable[..., Any], width: int, x: Images) -> Logits:
    like = jax.ShapeDtypeStruct((x.shape[0], width), jnp.float32)
    # What a callback returns looks the same on all devices to `shard_map`; a term of x says that it is not.
    return (
        jax.pure_callback(call, like, x, vmap_method="broadcast_all") + 0 * x.reshape(x.shape[0], -1)[:, :1]
    )


class _Host:
    """The module on the host, one call at a time.

    A forward pass that a gradient will be asked of keeps its graph, so that the backward pass need not run it again.
    """

    def __init__(self, torch: Any, module: Any) -> None:
        self.torch, self.module = torch, module
        self.lock = threading.RLock()
        self.widths: dict[tuple[int, ...], int] = {}
        self.counted: dict[tuple[int, ...], float] = {}
        self.kept: tuple[np.ndarray, Any, Any] | None = None

    def width(self, shape: tuple[int, ...]) -> int:
        """Find out how many logits there are, by running the module on a black image."""
        if shape not in self.widths:
            convention = (
                f"the module is called on images (b, c, h, w), here {(1, shape[2], *shape[:2])}, in evaluation mode, "
                "and must return logits (b, k)"
            )
            with inputs.failing("from_torch", convention), self.lock, self._evaluating():
                logits = self._run(self._tensor(np.zeros((1, *shape), np.float32)))
                if getattr(logits, "ndim", 0) != 2 or len(logits) != 1:
                    raise ValueError(
                        f"it returned {tuple(getattr(logits, 'shape', ())) or type(logits).__name__}"
                    )
            self.widths[shape] = int(logits.shape[1])
        return self.widths[shape]

    def operations(self, shape: tuple[int, ...]) -> float:
        """Count products and sums for images (.., h, w, c), for `traced.operations`; infinity where unknown.

        Evaluations take fewer batch sizes, and compile fewer programs, where a network is small.
        """
        one = shape[-3:]
        if one not in self.counted:
            try:
                counter = importlib.import_module("torch.utils.flop_counter").FlopCounterMode(display=False)
                with self.lock, self._evaluating(), counter:
                    self._run(self._tensor(np.zeros((1, *one), np.float32)))
                self.counted[one] = float(counter.get_total_flops())
            except Exception:  # of modules that PyTorch cannot look into, such as compiled ones
                self.counted[one] = math.inf
        return self.counted[one] * math.prod(shape[:-3])

    def forward(self, x: Any) -> np.ndarray:
        """Run the module on images, with any number of leading axes."""
        x = np.asarray(x)
        with self.lock, self._evaluating():
            logits = self._run(self._tensor(x.reshape(-1, *x.shape[-3:])))
            return _array(logits).reshape(*x.shape[:-3], -1)

    def forward_to_return(self, x: Any) -> np.ndarray:
        """Run the module and keep the graph."""
        x = np.asarray(x)
        with self.lock, self._evaluating():
            logits = self._run_with_graph(x)
            return _array(logits).reshape(*x.shape[:-3], -1)

    def backward(self, x: Any, g: Any) -> np.ndarray:
        """Pull logits' gradients (.., b, k) back to images (.., b, h, w, c)."""
        x, g = np.asarray(x), np.asarray(g)
        with self.lock, self._evaluating():
            kept, self.kept = self.kept, None
            if kept is None or kept[0].shape != x.shape or not np.array_equal(kept[0], x):
                self._run_with_graph(x)
                kept, self.kept = self.kept, None
            assert kept is not None
            _, start, logits = kept
            if (
                not logits.requires_grad
            ):  # of constants, or behind no_grad: a gradient of zero, which checks will see
                return np.zeros_like(x)
            pulled = self.torch.from_numpy(np.array(g.reshape(-1, g.shape[-1]), np.float32))
            pulled = pulled.to(logits.device, logits.dtype)
            (slope,) = self.torch.autograd.grad(logits, start, pulled, allow_unused=True)
            if slope is None:
                return np.zeros_like(x)
        return np.ascontiguousarray(_array(slope).transpose(0, 2, 3, 1)).reshape(x.shape)

    def _run_with_graph(self, x: np.ndarray) -> Any:
        with self.torch.enable_grad():
            start = self._tensor(x.reshape(-1, *x.shape[-3:])).requires_grad_(True)
            logits = self.module(start)
        self.kept = np.array(x), start, logits
        return logits

    def _run(self, images: Any) -> Any:
        with self.torch.no_grad():
            return self.module(images)

    def _tensor(self, x: np.ndarray) -> Any:
        first = next(self.module.parameters(), None)
        first = next(self.module.buffers(), None) if first is None else first
        # A copy in PyTorch's order: the arrays of a callback are read-only, and modules may flatten with view.
        images = self.torch.from_numpy(np.array(x.transpose(0, 3, 1, 2), np.float32, order="C"))
        if first is None:
            return images
        return images.to(first.device, first.dtype if first.is_floating_point() else None)

    @contextmanager
    def _evaluating(self):
        training = [part for part in self.module.modules() if part.training]
        for part in training:
            part.training = False
        try:
            yield
        finally:
            for part in training:
                part.training = True


def _array(tensor: Any) -> np.ndarray:
    return tensor.detach().float().cpu().numpy()
