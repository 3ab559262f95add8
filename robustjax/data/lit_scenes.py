"""Embedded: small scenes under 25 lights, rendered, with the material of every pixel; stands in for real ones.

Each scene is a floor with a few things on it. A heightfield is lit by one distant lamp per picture: what faces the
lamp is bright, what lies behind something is in its shadow, what is glossy has a highlight. What a pixel shows
therefore depends on the lamp in a way that no formula of one pixel gives. All numbers come from numpy's legacy
generator, whose streams are frozen: the same everywhere.
"""

from typing import NamedTuple

import numpy as np

from robustjax.data.lit import lit
from robustjax.data.sources import SPLITS, Split

LIGHTS = 25
MATERIALS = ("floor", "clay", "paper", "leaf", "metal", "plastic")
_COLOUR = np.array(
    [[0.45, 0.42, 0.4], [0.62, 0.34, 0.25], [0.8, 0.78, 0.7], [0.25, 0.5, 0.22], [0.5, 0.53, 0.58], [0.25, 0.35, 0.7]]
)  # fmt: skip
_GLOSS = np.array([0.0, 0.0, 0.05, 0.1, 0.9, 0.5])
_COUNTS = {"train": 320, "validation": 40, "test": 60}


class Rendered(NamedTuple):
    """Scenes: uint8 (n, lights, h, w, 3), and the material of each pixel, uint8 (n, h, w)."""

    image: np.ndarray
    material: np.ndarray


def split(part: str, *, size: tuple[int, int] = (16, 24), count: int | None = None, seed: int = 0) -> Split:
    """Render one split as `lit` packs it; 25 pictures a scene, labels are materials.

    Args:
      part: "train", "validation" or "test"; no two share a scene.
      size: rows and columns.
      count: scenes; 320, 40 and 60 by default.
      seed: of all scenes.
    Raises:
      ValueError: if the part is unknown, or the size or count below 8 or 1.
    """
    if part not in SPLITS:
        raise ValueError(f"lit_scenes: part is {part!r}, must be one of {', '.join(SPLITS)}")
    count = _COUNTS[part] if count is None else count
    if min(size) < 8 or count < 1:
        raise ValueError(f"lit_scenes: size is {size} and count {count}, must be at least 8 and 1")
    found = rendered(count, size=size, seed=1000 * seed + SPLITS.index(part))
    return lit(found.image, found.material, name="lit_scenes", split=part, classes=MATERIALS)


def rendered(count: int, *, size: tuple[int, int], seed: int) -> Rendered:
    """Render scenes under every light."""
    draw = np.random.RandomState(seed)
    image = np.empty((count, LIGHTS, *size, 3), np.uint8)
    material = np.empty((count, *size), np.uint8)
    for i in range(count):
        height, material[i], colour = _built(draw, size)
        for j, lamp in enumerate(lamps()):
            image[i, j] = np.rint(255 * _lit(height, material[i], colour, lamp)).astype(np.uint8)
    return Rendered(image, material)


def lamps() -> np.ndarray:
    """Give the unit vectors to the lamps, (25, 3): right, down, towards the viewer."""
    across, down = np.meshgrid(np.linspace(-1.2, 1.2, 5), np.linspace(-1.2, 1.2, 5))
    way = np.stack([across.ravel(), down.ravel(), np.ones(LIGHTS)], axis=1)
    return way / np.linalg.norm(way, axis=1, keepdims=True)


def _built(draw: np.random.RandomState, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Put three to six things on a floor: heights in pixels, materials, colours."""
    high, wide = size
    row, column = np.meshgrid(np.arange(high, dtype=float), np.arange(wide, dtype=float), indexing="ij")
    height, material = np.zeros(size), np.zeros(size, np.uint8)
    colour = np.broadcast_to(_COLOUR[0] + draw.uniform(-0.08, 0.08, 3), (*size, 3)).copy()
    for _ in range(draw.randint(3, 7)):
        kind = draw.randint(1, len(MATERIALS))
        middle = draw.uniform(0, high), draw.uniform(0, wide)
        reach = draw.uniform(0.12, 0.3, 2) * min(size)
        angle, tall = draw.uniform(0, np.pi), draw.uniform(1.0, 5.0)
        a = np.cos(angle) * (row - middle[0]) + np.sin(angle) * (column - middle[1])
        b = np.cos(angle) * (column - middle[1]) - np.sin(angle) * (row - middle[0])
        a, b = np.abs(a / reach[0]), np.abs(b / reach[1])
        # A dome or a box with sloping sides.
        shape = 1 - a**2 - b**2 if draw.rand() < 0.5 else np.minimum(3 * (1 - np.maximum(a, b)), 1.0)
        inside = shape > 0
        top = tall * np.sqrt(np.maximum(shape, 0))
        seen = inside & (top >= height)
        height, material = np.where(seen, top, height), np.where(seen, kind, material).astype(np.uint8)
        colour = np.where(seen[..., None], _COLOUR[kind] + draw.uniform(-0.08, 0.08, 3), colour)
    grain = 1 + 0.05 * draw.standard_normal(size)[..., None]
    return height, material, np.clip(colour * grain, 0, 1)


def _lit(height: np.ndarray, material: np.ndarray, colour: np.ndarray, lamp: np.ndarray) -> np.ndarray:
    down, right = np.gradient(height)
    normal = np.stack([-right, -down, np.ones_like(height)], axis=-1)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    facing = np.maximum(normal @ lamp, 0)
    row, column = np.indices(height.shape)
    shade = np.ones_like(height)
    # March towards the lamp: a pixel is dark where the ground rises above the ray.
    for step in range(1, 9):
        r = np.clip(np.rint(row + step * lamp[1] / lamp[2]).astype(int), 0, height.shape[0] - 1)
        c = np.clip(np.rint(column + step * lamp[0] / lamp[2]).astype(int), 0, height.shape[1] - 1)
        shade = np.where(height[r, c] > height + step + 0.2, 0.25, shade)
    halfway = lamp + np.array([0.0, 0.0, 1.0])
    shine = np.maximum(normal @ (halfway / np.linalg.norm(halfway)), 0) ** 20
    light = 0.12 + 0.95 * facing * shade
    return np.clip(colour * light[..., None] + (_GLOSS[material] * shine * shade)[..., None] * 0.6, 0, 1)
