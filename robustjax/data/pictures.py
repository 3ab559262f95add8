"""Read pictures from folders and from zip files: one folder for each class."""

import io
import unicodedata
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from robustjax.checks import reading
from robustjax.data.layouts import entries, files, part, split_of
from robustjax.data.resize import to_square
from robustjax.data.store import Raw

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".pgm", ".ppm")
LARGEST = 100_000_000  # pixels of a picture
LARGEST_FILE = 2**30  # bytes of a picture in an archive
MODES = ("1", "L", "P", "LA", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV")  # that become grey or RGB
SPLITS = ("train", "training", "val", "valid", "validation", "test", "testing")
Found = tuple[PurePosixPath, Callable[[], bytes]]  # where a picture is, and how to read it
Entry = tuple[PurePosixPath, Callable[[], bytes] | None]  # a file, or a folder that nothing reads


class Classified(NamedTuple):
    """Pictures found in folders, one for each class.

    Attributes:
      splits: by split the pictures, in the order of their paths, and the label of each.
      classes: their names, sorted.
      note: what was left out.
    """

    splits: Mapping[str, list[tuple[Found, int]]]
    classes: tuple[str, ...]
    note: str


def by_class(folder: Path, only: str = "", *, size: int | None = None) -> Raw | None:
    """Read `<split>/<class>/.../picture.png`, or `<class>/picture.png`.

    Without a folder or a zip file named train, val or test, all are test images. The index counts the
    pictures of a split in the order of their paths.

    Args:
      folder: where to look.
      only: read the pictures alone whose paths hold this.
      size: scale and crop to so many pixels a side; needed if they differ in size.
    Raises:
      ValueError: for a damaged picture, pictures of several sizes, pictures outside a class, or a folder beside those
        of the classes that holds no picture: left out, it would shift the labels of the others.
    """
    found = classified(folder, only)
    if found is None:
        return None
    grey = all(read_picture(one).mode in ("1", "L") for items in found.splits.values() for one, _ in items)
    return Raw(
        {
            split: part(
                decoded([one for one, _ in items], size=size, grey=grey),
                [label for _, label in items],
                where=folder,
            )
            for split, items in found.splits.items()
        },
        found.classes,
        note=found.note,
    )


def classified(folder: Path, only: str = "") -> Classified | None:
    """Find the pictures of each class, as `by_class` reads them, without reading any; None if there is none.

    Raises:
      ValueError: for pictures outside a class, or a folder beside those of the classes that holds no picture.
    """
    everything = _entries(folder)
    splits: dict[str, list[tuple[Found, str]]] = {}
    homes: dict[PurePosixPath, str] = {}  # the folders of the classes
    for found in _pictures(folder, everything):
        dirs = found[0].parts[:-1]
        if only not in found[0].as_posix():
            continue
        place = next((i for i, d in enumerate(dirs) if d.lower() in SPLITS), None)
        inside = dirs[-1:] if place is None else dirs[place + 1 :]
        if not inside:
            raise ValueError(f"{folder}: {found[0]} lies in no class, each class must be a folder")
        homes[PurePosixPath(*(dirs if place is None else dirs[: place + 2]))] = inside[0]
        splits.setdefault("test" if place is None else split_of(dirs[place]), []).append((found, inside[0]))
    if not splits:
        return None
    note = _left_out(folder, everything, homes) if not only else ""
    classes = tuple(sorted({name for items in splits.values() for _, name in items}))
    label = {name: i for i, name in enumerate(classes)}
    return Classified(
        {split: [(found, label[name]) for found, name in items] for split, items in splits.items()},
        classes,
        note,
    )


def pictures(folder: Path) -> list[Found]:
    """List the pictures under a folder, those in zip files included, in the order of their paths.

    The path of a picture in `a.zip` starts with `a`. Paths are in Unicode's composed form (NFC), so that names that
    look the same are the same.

    Raises:
      ValueError: for a damaged zip file, or one that lies beside what was unpacked from it.
    """
    return _pictures(folder, _entries(folder))


def _pictures(folder: Path, everything: Sequence[Entry]) -> list[Found]:
    found = [
        (path, read) for path, read in everything if read is not None and path.suffix.lower() in SUFFIXES
    ]
    for archive in files(folder, ".zip"):
        unpacked = archive.with_suffix("")
        twice = unpacked if unpacked.is_dir() and files(unpacked, *SUFFIXES) else None
        for name in [] if twice else _archive(archive).namelist():
            if PurePosixPath(name).suffix.lower() in SUFFIXES and (archive.parent / name).is_file():
                twice = archive.parent / name
                break
        if twice:
            raise ValueError(
                f"{folder}: holds {archive.name} and {twice}, packed and unpacked; remove one of them"
            )
    return sorted(found, key=lambda f: f[0])


def _entries(folder: Path) -> list[Entry]:
    """List files and folders under a folder, those in zip files included."""
    found: list[Entry] = []
    for path, is_folder in entries(folder):
        inner = _composed(path.relative_to(folder).as_posix())
        found.append((inner, None if is_folder else path.read_bytes))
        if not is_folder and path.suffix.lower() == ".zip":
            archive, top = _archive(path), inner.with_suffix("")
            for name in archive.namelist():
                inside = PurePosixPath(name)
                if any(p.startswith((".", "__MACOSX")) for p in inside.parts):
                    continue
                read = None if name.endswith("/") else partial(_unpacked, archive, name)
                found.append((top / _composed(name), read))
    return found


def _composed(path: str) -> PurePosixPath:
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{path!r}: the name of a file must be UTF-8") from error
    return PurePosixPath(unicodedata.normalize("NFC", path))


def _archive(path: Path) -> zipfile.ZipFile:
    with reading(path, "damaged zip file"):
        return zipfile.ZipFile(path)


def _unpacked(archive: zipfile.ZipFile, name: str) -> bytes:
    if (size := archive.getinfo(name).file_size) > LARGEST_FILE:
        raise ValueError(f"it has {size:,} bytes, must be at most {LARGEST_FILE:,}")
    return archive.read(name)


def _left_out(folder: Path, everything: Sequence[Entry], homes: Mapping[PurePosixPath, str]) -> str:
    """Count the files in classes that are no pictures; refuse a folder beside the classes that holds no picture."""
    beside = {home.parent for home in homes}
    suffixes: Counter[str] = Counter()
    empty: dict[PurePosixPath, Counter[str]] = {}
    for path, read in everything:
        for home in [*path.parents] if read is not None else [path, *path.parents]:
            if home.parent in beside and home != home.parent:
                break
        else:
            continue
        if any(known == home or home in known.parents for known in homes):
            if home in homes and read is not None and path.suffix.lower() not in SUFFIXES:
                suffixes[path.suffix] += 1
        elif home.name not in homes.values():
            empty.setdefault(home, Counter())
            if read is not None:
                empty[home][path.suffix] += 1
    for home, kinds in empty.items():
        holds = (
            ", ".join(f"{count} {suffix or 'without suffix'}" for suffix, count in kinds.items()) or "nothing"
        )
        raise ValueError(
            f"{folder}: {home} holds {holds}, must hold pictures ({' '.join(SUFFIXES)}) as the classes beside it do, "
            "or be removed"
        )
    if not suffixes:
        return ""
    return "left out: " + ", ".join(
        f"{count} {suffix or 'without suffix'}" for suffix, count in suffixes.items()
    )


def decoded(found: Sequence[Found], *, size: int | None, grey: bool, turned: bool = False) -> np.ndarray:
    """Decode pictures to one uint8 array (n, h, w, c), grey or in three colours.

    Args:
      found: the pictures.
      size: scale and crop to so many pixels a side.
      grey: in one channel.
      turned: as the EXIF orientation says, see `upright`.
    Raises:
      ValueError: for a damaged picture, or pictures of several sizes while `size` is None.
    """
    out: list[np.ndarray] = []
    for item in found:
        picture = read_picture(item)
        picture = (upright(picture) if turned else picture).convert("L" if grey else "RGB")
        out.append(np.asarray(picture if size is None else to_square(picture, size)))
        if out[-1].shape != out[0].shape:
            (h0, w0), (h, w) = out[0].shape[:2], out[-1].shape[:2]
            raise ValueError(
                f"{item[0]}: {h} x {w} pixels, the first picture has {h0} x {w0}; give a size, or keep them as they "
                "are (data.prepare --keep-files)"
            )
    return np.stack(out).reshape(len(out), *out[0].shape[:2], 1 if grey else 3)


def read_picture(found: Found) -> Image.Image:
    """Open a picture and read all of it, as 8 bits a channel.

    Raises:
      ValueError: if it is damaged, or has more than 16 bits a channel.
    """
    return from_bytes(found[1], str(found[0]))


def from_bytes(content: bytes | Callable[[], bytes], name: str) -> Image.Image:
    """Decode the content of a picture file; of 16-bit grey values the upper 8 bits are kept, as of colours.

    Pillow's own conversion would cut 16-bit grey values off at 255, so that nearly all of a picture becomes white. The
    orientation in EXIF data is ignored, as torchvision does; see `upright`.

    Args:
      content: of the file, or what reads it.
      name: of the file, for errors.
    Raises:
      ValueError: in one line, if it is damaged, larger than `LARGEST` pixels, of a kind that has no colours in 8 bits,
        or has more than 16 bits a channel.
    """
    with reading(name, "damaged picture"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of what is checked here, and of oddities in metadata
        picture = Image.open(io.BytesIO(content if isinstance(content, bytes) else content()))
        if picture.width * picture.height > LARGEST:
            raise ValueError(
                f"it has {picture.width} x {picture.height} pixels, must have at most {LARGEST:,}"
            )
        picture.load()
    picture.info.pop("transparency", None)  # it changes no colour, and a damaged one stops a conversion
    # Pillow gives 16-bit grey PNG files as I or I;16, depending on its version.
    if picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format == "PNG"):
        grey = Image.fromarray((np.asarray(picture).astype(np.uint32) >> 8).astype(np.uint8))
        grey.info.update(picture.info)  # the orientation
        return grey
    if picture.mode in ("I", "F"):
        what = "32-bit integers" if picture.mode == "I" else "floating-point numbers"
        raise ValueError(f"{name}: holds {what}, must have 8 or 16 bits a channel")
    if picture.mode not in MODES:
        raise ValueError(f"{name}: its mode is {picture.mode}, must be one of {', '.join(MODES)}")
    return picture


def upright(picture: Image.Image) -> Image.Image:
    """Turn a picture as its EXIF orientation says: what a camera saw, for pictures that must lie on one another.

    Classification sets are read as they are stored, which is torchvision's convention and that of published numbers.
    """
    try:
        return ImageOps.exif_transpose(picture)
    except Exception:  # damaged metadata say nothing
        return picture
