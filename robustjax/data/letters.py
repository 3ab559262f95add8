"""Letters that look like the digits, rendered from the fonts of matplotlib: OOD images without a download."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from robustjax.data.order import mixed
from robustjax.data.store import Contents, Part

# Left out because they look like digits, in some font at least: B D G I O Q S Z, b g i l o q s z.
LETTERS = "ACEFHJKLMNPRTUVWXYacdefhjkmnprtuvwxy"

# No design is in both lists: what is tested was not trained on in another weight.
TRAIN_FONTS = (
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique"),
    *("DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique", "DejaVuSansMono-BoldOblique"),
    *("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta"),
)
TEST_FONTS = (
    *("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "DejaVuSerif-BoldItalic"),
    *("cmr10", "cmb10", "cmss10", "cmti10", "cmtt10", "cmmi10"),
)
VARIATIONS = 8  # of every letter in every font: turned by up to 15 degrees, slanted by up to 0.2


def contents(size: int) -> Contents:
    """Render all letters: 3,456 for training and 2,880, in other fonts, for testing.

    The pixels depend a little on the version of FreeType; the checksum that comes with a split tells.

    Args:
      size: 8 for the look of scikit-learn's digits (a 32 x 32 bitmap, dots counted in blocks of 4 x 4), 28
        for that of MNIST (20 pixels high and smooth, with the centre of mass in the centre).
    Raises:
      ValueError: for another size, or if matplotlib is not installed.
    """
    if size not in (8, 28):
        raise ValueError(f"letters: size is {size}, must be 8 or 28")
    folder = _folder()
    return Contents(
        name="letters" if size == 8 else f"letters/{size}",
        version="1.0.0",
        classes=tuple(LETTERS),
        parts={"train": _part(folder, TRAIN_FONTS, size), "test": _part(folder, TEST_FONTS, size)},
        source="letters rendered from the fonts of matplotlib",
        note="without letters that look like digits; training and test fonts differ",
    )


def _folder() -> Path:
    try:
        import matplotlib
    except ImportError as error:
        raise ValueError("letters: needs matplotlib, pip install matplotlib") from error
    return Path(matplotlib.get_data_path()) / "fonts" / "ttf"


def _part(folder: Path, fonts: tuple[str, ...], size: int) -> Part:
    image, label = [], []
    for name in fonts:
        font = ImageFont.truetype(str(folder / f"{name}.ttf"), 56)
        for k, letter in enumerate(LETTERS):
            for variation in range(VARIATIONS):
                ink = _ink(font, letter, int.from_bytes(name.encode(), "big") % 2**63, variation)
                image.append(_like_digits(ink) if size == 8 else _like_mnist(ink))
                label.append(k)
    return Part(np.stack(image)[..., None], np.asarray(label, np.int32), np.arange(len(label)))


def _ink(font: ImageFont.FreeTypeFont, letter: str, seed: int, variation: int) -> Image.Image:
    """Draw a letter large, turned and slanted a little, and cut off what is empty."""
    turn, slant = (float(mixed(seed, ord(letter), variation, axis)) / 2**64 * 2 - 1 for axis in (0, 1))
    paper = Image.new("L", (112, 112))
    ImageDraw.Draw(paper).text((56, 56), letter, fill=255, font=font, anchor="mm")
    sheared = paper.transform(
        paper.size,
        Image.Transform.AFFINE,
        (1, 0.2 * slant, -56 * 0.2 * slant, 0, 1, 0),
        Image.Resampling.BILINEAR,
    )
    turned = sheared.rotate(15 * turn, Image.Resampling.BILINEAR)
    return turned.crop(turned.point([0] * 128 + [255] * 128).getbbox())


def _like_digits(ink: Image.Image) -> np.ndarray:
    """Count the dots of a bitmap in blocks, as NIST's preprocessing did; grey levels 0..16 become 0..255."""
    width = min(26, max(1, round(32 * ink.width / ink.height)))
    dots = np.zeros((32, 32), np.int64)
    left = (32 - width) // 2
    dots[:, left : left + width] = np.asarray(ink.resize((width, 32), Image.Resampling.BOX)) >= 128
    return ((dots.reshape(8, 4, 8, 4).sum(axis=(1, 3)) * 255 + 8) // 16).astype(np.uint8)


def _like_mnist(ink: Image.Image) -> np.ndarray:
    """Fit a box of 20 x 20 and put the centre of mass in the centre of 28 x 28."""
    scale = 20 / max(ink.size)
    shape = max(1, round(ink.width * scale)), max(1, round(ink.height * scale))
    small = np.asarray(ink.resize(shape, Image.Resampling.BOX)).astype(np.int64)
    rows, columns = small.sum(axis=1), small.sum(axis=0)
    centre = [round(float(line @ np.arange(len(line))) / float(line.sum())) for line in (rows, columns)]
    top, left = (min(max(14 - c, 0), 28 - n) for c, n in zip(centre, small.shape, strict=True))
    out = np.zeros((28, 28), np.uint8)
    out[top : top + small.shape[0], left : left + small.shape[1]] = small
    return out
