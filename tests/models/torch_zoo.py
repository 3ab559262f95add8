"""Networks of public model zoos in PyTorch: their layers' names, and what they compute, from the papers."""

import torch
import torch.nn.functional as f
from torch import nn


def conv(narrow, wide, size, stride=1, padding=None):
    return nn.Conv2d(narrow, wide, size, stride, size // 2 if padding is None else padding, bias=False)


class Normalise(nn.Module):
    def __init__(self, first="mean", second="std", mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25)):
        super().__init__()
        self.first, self.second = first, second
        self.register_buffer(first, torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer(second, torch.tensor(std).view(-1, 1, 1))

    def forward(self, x):
        return (x - getattr(self, self.first)) / getattr(self, self.second)


class Residual(nn.Module):
    """A block with activations after the addition, of two convolutions or, with a bottleneck, three."""

    def __init__(self, narrow, width, stride, bottleneck, shortcut):
        super().__init__()
        wide = 4 * width if bottleneck else width
        sizes = [(narrow, width, 1, 1), (width, width, 3, stride), (width, wide, 1, 1)]
        sizes = sizes if bottleneck else [(narrow, width, 3, stride), (width, width, 3, 1)]
        self.count, self.name = len(sizes), shortcut
        for i, (a, b, size, s) in enumerate(sizes, start=1):
            setattr(self, f"conv{i}", conv(a, b, size, s))
            setattr(self, f"bn{i}", nn.BatchNorm2d(b))
        same = stride == 1 and narrow == wide
        setattr(
            self,
            shortcut,
            nn.Sequential()
            if same
            else nn.Sequential(conv(narrow, wide, 1, stride, 0), nn.BatchNorm2d(wide)),
        )

    def forward(self, x):
        y = x
        for i in range(1, self.count + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            y = f.relu(y) if i < self.count else y
        return f.relu(y + getattr(self, self.name)(x))


class ResNet(nn.Module):
    def __init__(self, depths, classes, bottleneck=False, large=False):
        super().__init__()
        self.large = large
        self.conv1 = conv(3, 64, 7, 2) if large else conv(3, 64, 3)
        self.bn1 = nn.BatchNorm2d(64)
        narrow = 64
        for i, depth in enumerate(depths):
            blocks = []
            for j in range(depth):
                stride = 2 if i and not j else 1
                name = "downsample" if large else "shortcut"
                blocks.append(Residual(narrow, 64 * 2**i, stride, bottleneck, name))
                narrow = 64 * 2**i * (4 if bottleneck else 1)
            setattr(self, f"layer{i + 1}", nn.Sequential(*blocks))
        setattr(self, "fc" if large else "linear", nn.Linear(narrow, classes))

    def forward(self, x):
        x = f.relu(self.bn1(self.conv1(x)))
        x = f.max_pool2d(x, 3, 2, 1) if self.large else x
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return (self.fc if self.large else self.linear)(x.mean((2, 3)))


class PreActBlock(nn.Module):
    def __init__(self, narrow, wide, stride, early):
        super().__init__()
        self.early = early
        self.bn1, self.conv1 = nn.BatchNorm2d(narrow), conv(narrow, wide, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(wide), conv(wide, wide, 3)
        if stride != 1 or narrow != wide:
            self.shortcut = nn.Sequential(conv(narrow, wide, 1, stride))

    def forward(self, x):
        y = f.relu(self.bn1(x))
        if hasattr(self, "shortcut"):
            x = self.shortcut(x if self.early else y)
        return x + self.conv2(f.relu(self.bn2(self.conv1(y))))


class PreActResNet18(nn.Module):
    def __init__(self, classes, early, last):
        super().__init__()
        self.conv1 = conv(3, 64, 3)
        widths = [64, 64, 128, 256, 512]
        for i in range(1, 5):
            first = PreActBlock(widths[i - 1], widths[i], 1 if i == 1 else 2, early)
            setattr(self, f"layer{i}", nn.Sequential(first, PreActBlock(widths[i], widths[i], 1, early)))
        if last:
            self.bn = nn.BatchNorm2d(512)
        self.linear = nn.Linear(512, classes)

    def forward(self, x):
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.conv1(x)))))
        x = f.relu(self.bn(x)) if hasattr(self, "bn") else x
        return self.linear(x.mean((2, 3)))


class TradesBlock(nn.Module):
    def __init__(self, narrow, wide, stride):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(narrow), conv(narrow, wide, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(wide), conv(wide, wide, 3)
        self.convShortcut = conv(narrow, wide, 1, stride) if narrow != wide else None

    def forward(self, x):
        y = f.relu(self.bn1(x))
        x = x if self.convShortcut is None else self.convShortcut(y)
        return x + self.conv2(f.relu(self.bn2(self.conv1(y))))


class Group(nn.Module):
    """Blocks in a Sequential under some name."""

    def __init__(self, name, blocks):
        super().__init__()
        setattr(self, name, nn.Sequential(*blocks))

    def forward(self, x):
        return next(self.children())(x)


def groups(name, block, depth, width, **settings):
    widths = [16, 16 * width, 32 * width, 64 * width]
    for i in range(3):
        first = block(widths[i], widths[i + 1], 1 if i == 0 else 2, **settings)
        rest = [block(widths[i + 1], widths[i + 1], 1, **settings) for _ in range((depth - 4) // 6 - 1)]
        yield Group(name, [first, *rest])


class TradesWide(nn.Module):
    def __init__(self, depth, width, classes, dead=True):
        super().__init__()
        self.conv1 = conv(3, 16, 3)
        self.block1, self.block2, self.block3 = groups("layer", TradesBlock, depth, width)
        if dead:  # built, in the state dict, and never called
            self.sub_block1 = next(groups("layer", TradesBlock, depth, width))
        self.bn1, self.fc = nn.BatchNorm2d(64 * width), nn.Linear(64 * width, classes)

    def forward(self, x):
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        return self.fc(f.relu(self.bn1(x)).mean((2, 3)))


class GowalBlock(nn.Module):
    def __init__(self, narrow, wide, stride):
        super().__init__()
        self.batchnorm_0, self.conv_0 = nn.BatchNorm2d(narrow), conv(narrow, wide, 3, stride, 0)
        self.batchnorm_1, self.conv_1 = nn.BatchNorm2d(wide), conv(wide, wide, 3)
        self.shortcut = conv(narrow, wide, 1, stride) if narrow != wide else None
        self.pad = (1, 1, 1, 1) if stride == 1 else (0, 1, 0, 1)  # left, right, top, bottom

    def forward(self, x):
        y = f.silu(self.batchnorm_0(x))
        x = x if self.shortcut is None else self.shortcut(y)
        return x + self.conv_1(f.silu(self.batchnorm_1(self.conv_0(f.pad(y, self.pad)))))


class GowalWide(Normalise):
    def __init__(self, depth, width, classes):
        super().__init__()
        self.init_conv = conv(3, 16, 3)
        self.layer = nn.Sequential(*groups("block", GowalBlock, depth, width))
        self.batchnorm, self.logits = nn.BatchNorm2d(64 * width), nn.Linear(64 * width, classes)

    def forward(self, x):
        x = self.layer(self.init_conv(super().forward(x)))
        return self.logits(f.silu(self.batchnorm(x)).mean((2, 3)))


def randomised(net, seed=0):
    """Draw kernels of He's size, and statistics, scales and biases away from 0 and 1 so that each matters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if value.ndim == 0:
                continue  # a constant
            if value.ndim > 1 and name.endswith("weight"):
                value.normal_(0, (2 / value[0].numel()) ** 0.5, generator=generator)
            elif name.endswith(("running_var", "weight")):
                value.uniform_(0.5, 1.5, generator=generator)
            elif name.endswith(("running_mean", "bias")):
                value.normal_(0, 0.2, generator=generator)
    return net.eval()


def scale_head(net, factor):
    """Divide the logits by a number."""
    head = next(part for name, part in net.named_children() if name in ("fc", "linear", "logits"))
    with torch.no_grad():
        head.weight /= factor
        head.bias /= factor
