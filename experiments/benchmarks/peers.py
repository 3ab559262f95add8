"""The networks of the benchmarks in PyTorch, with our weights, so that both sides run the same function."""

import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

NETWORKS = ("convnet_small", "convnet", "resnet8", "resnet18")


class Form(NamedTuple):
    """A way PyTorch can run a network.

    Attributes:
      logits: images (b, c, h, w) on `place` -> logits in float32.
      place: "cuda" or "cpu".
    """

    logits: Callable[[Any], Any]
    place: str


def forms(net: Any, *, dtype: str = "float32", compiled: bool = False) -> dict[str, Form]:
    """List the ways to run a network: eager, and torch.compile if asked for.

    On an accelerator it computes channels last. bfloat16 is automatic mixed precision.
    """
    import torch

    place = "cuda" if torch.cuda.is_available() else "cpu"
    # As XLA does by itself: the fast float32 of tensor cores, and the fastest routine for each shape.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.benchmark = True
    last = torch.channels_last if place == "cuda" else torch.contiguous_format
    net = net.to(place, memory_format=last)

    def run(forward: Any) -> Callable[[Any], Any]:
        def logits(x: Any) -> Any:
            with torch.autocast(place, torch.bfloat16, enabled=dtype == "bfloat16"):
                return forward(x.contiguous(memory_format=last)).float()

        return logits

    found = {"pytorch": Form(run(net), place)}
    if compiled:
        found["compiled"] = Form(run(torch.compile(net)), place)
    return found


def network(name: str, params: Any, state: Any, constants: Mapping[str, Any] | None = None) -> Any:
    """Rebuild a network of ours in PyTorch: images (b, c, h, w) in [0, 1] to logits.

    Args:
      name: one of `NETWORKS`, or a wideresnet of less than ten blocks in a group.
      params, state: of our network.
      constants: mean and std of its normalisation, None for none.
    Raises:
      ValueError: for another network.
    """
    import torch
    from torch import nn
    from torch.nn import functional as f

    torch.set_num_threads(_cpus())
    running = state.get("batch_stats", {})

    def tensor(value: Any) -> Any:
        return nn.Parameter(torch.from_numpy(np.array(value, np.float32)))

    def conv(entry: Any, stride: int = 1, pad: int = 1) -> nn.Conv2d:
        kernel = np.asarray(entry["kernel"]).transpose(3, 2, 0, 1)
        wide, narrow, size, _ = kernel.shape
        layer = nn.Conv2d(narrow, wide, size, stride, pad, bias="bias" in entry)
        layer.weight = tensor(kernel)
        if "bias" in entry:
            layer.bias = tensor(entry["bias"])
        return layer

    def linear(entry: Any, channels: int | None = None) -> nn.Linear:
        kernel = np.asarray(entry["kernel"])
        if channels:  # rows in the order h, w, c here and c, h, w there
            side = int(np.sqrt(len(kernel) // channels))
            kernel = kernel.reshape(side, side, channels, -1).transpose(2, 0, 1, 3).reshape(kernel.shape)
        layer = nn.Linear(*kernel.shape)
        layer.weight, layer.bias = tensor(kernel.T), tensor(entry["bias"])
        return layer

    def norm(entry: Any, found: Any) -> nn.BatchNorm2d:
        layer = nn.BatchNorm2d(len(np.asarray(entry["scale"])))
        layer.weight, layer.bias = tensor(entry["scale"]), tensor(entry["bias"])
        layer.running_mean, layer.running_var = (
            torch.from_numpy(np.array(found[part], np.float32)) for part in ("mean", "var")
        )
        return layer

    class Normalised(nn.Module):
        def __init__(self, mean: Any, std: Any):
            super().__init__()
            self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32)[:, None, None])
            self.register_buffer("std", torch.tensor(std, dtype=torch.float32)[:, None, None])

        def forward(self, x):
            return (x - self.mean) / self.std

    class PixelBlocks(nn.Module):
        def forward(self, x):  # 2x2 blocks as channels, the place within a block before the colour
            b, c, h, w = x.shape
            return (
                f.pixel_unshuffle(x, 2)
                .reshape(b, c, 4, h // 2, w // 2)
                .transpose(1, 2)
                .reshape(b, 4 * c, h // 2, w // 2)
            )

    class Block(nn.Module):
        def __init__(self, own: Any, found: Any, stride: int):
            super().__init__()
            self.conv1, self.norm1 = conv(own["conv1"], stride), norm(own["norm1"], found["norm1"])
            self.conv2, self.norm2 = conv(own["conv2"]), norm(own["norm2"], found["norm2"])
            self.shortcut = nn.Identity()
            if "shortcut_conv" in own:
                change = norm(own["shortcut_norm"], found["shortcut_norm"])
                self.shortcut = nn.Sequential(conv(own["shortcut_conv"], stride, 0), change)

        def forward(self, x):
            y = self.norm2(self.conv2(f.relu(self.norm1(self.conv1(x)))))
            return f.relu(y + self.shortcut(x))

    class WideBlock(nn.Module):
        def __init__(self, own: Any, found: Any, stride: int):
            super().__init__()
            self.norm1, self.norm2 = norm(own["norm1"], found["norm1"]), norm(own["norm2"], found["norm2"])
            self.conv1, self.conv2 = conv(own["conv1"], stride), conv(own["conv2"])
            self.shortcut = conv(own["shortcut_conv"], stride, 0) if "shortcut_conv" in own else None

        def forward(self, x):
            y = f.relu(self.norm1(x))
            kept = x if self.shortcut is None else self.shortcut(y)
            return kept + self.conv2(f.relu(self.norm2(self.conv1(y))))

    if name.startswith("wideresnet"):
        body: list[Any] = [conv(params["conv1"])]
        for key in sorted(key for key in params if key.startswith("stage")):
            body.append(
                WideBlock(params[key], running[key], 2 if key[5] > "1" and key.endswith("block0") else 1)
            )
        body += [norm(params["norm"], running["norm"]), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        body.append(linear(params["head"]))
    elif name in ("resnet8", "resnet18"):
        small = name == "resnet8"
        blocks = [(i, 0) for i in range(1, 4)] if small else [(i, j) for i in range(1, 5) for j in range(2)]
        body = [PixelBlocks()] if small else []
        body += [conv(params["conv1"]), norm(params["norm1"], running["norm1"]), nn.ReLU()]
        for i, j in blocks:
            key = f"stage{i}_block{j}"
            body.append(Block(params[key], running[key], 2 if i > 1 and j == 0 else 1))
        body += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear(params["head"])]
    elif name in NETWORKS:
        small = name == "convnet_small"
        first, second = (
            conv(params[key], 2 if small else 1, 1 if small else 2) for key in ("conv0", "conv1")
        )
        pools = [[] if small else [nn.MaxPool2d(2)] for _ in range(2)]
        tail = [
            nn.Flatten(),
            linear(params["hidden"], second.out_channels),
            nn.ReLU(),
            linear(params["head"]),
        ]
        body = [first, *pools[0], nn.ReLU(), second, *pools[1], nn.ReLU(), *tail]
    else:
        raise ValueError(f"peers: no PyTorch network for {name!r}, must be one of {', '.join(NETWORKS)}")
    front = [Normalised(**constants)] if constants else []
    return nn.Sequential(*front, *body).eval()


def _cpus() -> int:
    """Count the CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
