"""Read raw files that are arrays: idx as MNIST has it, npy and npz. A reader gives None for other files."""

import gzip
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from robustjax import checks
from robustjax.checks import reading
from robustjax.data.store import Part, Raw

_IDX = re.compile(r"idx(?P<rank>\d)[-.]ubyte(?P<packed>\.gz)?$")


def idx(folder: Path, only: str = "") -> Raw | None:
    """Read `*-images-idx3-ubyte[.gz]` with the labels beside each.

    Args:
      folder: where to look, folders inside it included.
      only: read the files alone whose names hold this.
    Raises:
      ValueError: for a file that is damaged, or images without labels.
    """
    found: dict[str, Path] = {}
    for path in files(folder):
        match = _IDX.search(path.name)
        name = path.name.removesuffix(".gz")
        # An unpacked file takes precedence over its archive.
        if match and only in name and not (match["packed"] and name in found):
            found[name] = path
    parts: dict[str, Part] = {}
    for name, path in found.items():
        if "idx1" in name:
            continue
        labels = re.sub(r"idx\d", "idx1", name.replace("images", "labels").replace("X_", "y_"))
        if labels not in found:
            raise ValueError(f"{path}: its labels are missing, {labels} or {labels}.gz must lie beside it")
        insert(parts, split_of(name), part(_idx(path), _idx(found[labels]), where=path), path)
    return Raw(parts) if parts else None


def npz(folder: Path, only: str = "") -> Raw | None:
    """Read .npy and .npz files: one array of uint8 images and one of labels a split, by their names.

    "train", "val" or "test" in the name of the file or of the array says the split, "test" if neither does. An
    array of integers with "index" in its name holds the official numbers of the images: they are sorted by it, and
    some of them may be absent. An array of strings with "class" in its name holds the names of the classes.

    Raises:
      ValueError: for a file that is damaged, objects instead of numbers, images that are not bytes, without labels,
        or with another count of numbers.
    """
    images: dict[str, tuple[Path, np.ndarray]] = {}
    labels: dict[str, np.ndarray] = {}
    numbers: dict[str, np.ndarray] = {}
    classes: tuple[str, ...] = ()
    for path in files(folder, ".npy", ".npz"):
        for key, array in arrays(path).items():
            name = f"{path.stem} {key}"
            if only not in name:
                continue
            if array.dtype.kind in "US" and array.ndim == 1 and "class" in name.lower():
                classes = tuple(map(str, array.astype(str)))
            elif array.dtype == np.uint8 and array.ndim >= 3:
                if split_of(name) in images:
                    raise ValueError(f"{path}: second array of {split_of(name)} images, must be one")
                images[split_of(name)] = path, array
            elif np.issubdtype(array.dtype, np.integer) and array.size == len(np.atleast_1d(array)):
                what, found = ("numbers", numbers) if "index" in name.lower() else ("labels", labels)
                if split_of(name) in found:
                    raise ValueError(f"{path}: second array of {split_of(name)} {what}, must be one")
                found[split_of(name)] = array.reshape(-1)
            elif array.ndim >= 3:
                raise ValueError(f"{path}: {_why_not(array)}")
    if without := sorted(set(images) - set(labels)):
        raise ValueError(
            f"{images[without[0]][0]}: no labels for its images, one array of integers must hold them"
        )
    if not images:
        return None
    for split, (path, image) in images.items():
        for what, found in (("labels", labels), ("numbers", numbers)):
            if split in found and len(found[split]) != len(image):
                raise ValueError(
                    f"{path}: {len(image)} {split} images with {len(found[split])} {what}, must be equal"
                )
    parts = {
        split: _sorted(part(image, labels[split], numbers.get(split), where=path))
        for split, (path, image) in images.items()
    }
    return Raw(parts, classes, numbered=frozenset(numbers))


def _sorted(found: Part) -> Part:
    order = np.argsort(found.index, kind="stable")
    if (order == np.arange(len(order))).all():
        return found
    return Part(found.image[order], found.label[order], found.index[order])


def _why_not(array: np.ndarray) -> str:
    """Say what is wrong with images that are not bytes."""
    said = f"images {list(array.shape)} are {array.dtype}, must be uint8"
    if array.dtype.kind not in "fiu":
        return said
    if not np.isfinite(array).all():
        return f"{said}; they hold NaN or infinity"
    low, high = array.min(), array.max()
    if low >= 0 and high <= 1 and array.dtype.kind == "f":
        return f"{said}; they lie in [{low:g}, {high:g}], store (255 * x).round().astype('uint8')"
    if low >= 0 and high <= 255:
        return f"{said}; they lie in [{low:g}, {high:g}], store x.astype('uint8') if that loses nothing"
    return f"{said}; they lie in [{low:g}, {high:g}], outside of 0 to 255"


def split_of(name: str) -> str:
    """Read the split off the name of a file or a folder; "test" if it does not say."""
    words = name.lower()
    return "train" if "train" in words else "validation" if "val" in words else "test"


def files(folder: Path, *suffixes: str) -> list[Path]:
    """List the files under a folder, sorted, hidden ones left out; links to files and folders are followed."""
    found = (path for path, is_folder in entries(folder) if not is_folder)
    return sorted(p for p in found if not suffixes or p.suffix.lower() in suffixes)


def entries(folder: Path, above: frozenset[str] = frozenset()) -> Iterator[tuple[Path, bool]]:
    """Yield what is under a folder, and whether it is a folder; links are followed, hidden entries left out."""
    real = os.path.realpath(folder)
    if real in above or not folder.is_dir():  # a link to a folder that it lies in
        return
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield path, True
            yield from entries(path, above | {real})
        elif path.is_file():
            yield path, False


def part(
    image: np.ndarray,
    label: np.ndarray | Iterable[int],
    index: np.ndarray | None = None,
    *,
    where: Path | str,
) -> Part:
    """Bring images to (n, h, w, c) and labels to int32; the index is the position unless given.

    Raises:
      ValueError: naming `where`, for no image, another rank than 3 or 4, or labels that are no whole numbers from 0.
    """
    if image.ndim not in (3, 4) or not image.size:
        raise ValueError(
            f"{where}: images are {image.dtype}{list(image.shape)}, must be (n, h, w) or (n, h, w, c)"
        )
    label = checks.labels(str(where), np.asarray(label), count=len(image))
    if image.ndim == 3:
        image = image[..., None]
    if image.ndim == 4 and image.shape[-1] not in (1, 3) and image.shape[1] in (1, 3):
        image = image.transpose(0, 2, 3, 1)
    return Part(image, label, np.arange(len(image)) if index is None else index)


def insert(parts: dict[str, Part], split: str, new: Part, path: Path) -> None:
    """Add a part, once for every split."""
    if split in parts:
        raise ValueError(f"{path}: second file of {split} images in this folder, must be one")
    parts[split] = new


def _idx(path: Path) -> np.ndarray:
    with reading(path, "damaged gzip file"):
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    if len(content) < 4 or content[:3] != b"\x00\x00\x08":
        raise ValueError(
            f"{path}: starts with {content[:4].hex()}, must be 000008 and the rank (idx of bytes)"
        )
    dimensions = content[4 : 4 + 4 * content[3]]
    shape = np.frombuffer(dimensions[: len(dimensions) // 4 * 4], ">u4").tolist()
    body = np.frombuffer(content, np.uint8, offset=min(4 + 4 * content[3], len(content)))
    if len(shape) != content[3] or body.size != math.prod(shape):
        raise ValueError(f"{path}: holds {body.size} bytes, its header says {' x '.join(map(str, shape))}")
    return body.reshape(shape)


def arrays(path: Path, *, mapped: bool = False) -> Mapping[str, np.ndarray]:
    """Read a file of arrays: those of an .npz file by name, that of an .npy file by the empty name.

    Args:
      path: of the file.
      mapped: leave the numbers of an .npy file on disk.
    Raises:
      ValueError: in one line, if it is damaged or holds objects.
    """
    with reading(path, "cannot be read as numbers"):
        # A pickle could run any code.
        loaded = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"": loaded}
        with loaded:
            return {name: loaded[name] for name in loaded.files}


def text(path: Path) -> str:
    """Read a file of text.

    Raises:
      ValueError: in one line, if it is not UTF-8.
    """
    with reading(path, "cannot be read as text"):
        return path.read_text(encoding="utf-8")
