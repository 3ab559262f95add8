"""Write arrays as a prepared TFDS data set, all or nothing, without TensorFlow.

Images are stored as PNG, which loses nothing; the official index is stored beside them, because TFDS
shuffles what it writes.
"""

import contextlib
import dataclasses
import io
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image


@dataclasses.dataclass(frozen=True)
class Part:
    """One stored split: uint8 images (n, h, w, c), their labels (n,) and official indices (n,)."""

    image: np.ndarray
    label: np.ndarray
    index: np.ndarray


@dataclasses.dataclass(frozen=True)
class Raw:
    """What a reader found in a folder of raw files.

    Attributes:
      parts: by split.
      classes: their names if the files say them.
      numbered: splits whose official indices the files say; such a split may be a part of the official one.
      note: what was left out.
    """

    parts: Mapping[str, Part]
    classes: tuple[str, ...] = ()
    numbered: frozenset[str] = frozenset()
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Contents:
    """All that a prepared data set holds. `note` says how it differs from the set of that name."""

    name: str  # as given to load, "emnist/letters" for a configuration
    version: str
    classes: tuple[str, ...]
    parts: Mapping[str, Part]
    source: str
    note: str = ""


class Stored(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A TFDS builder over arrays in memory."""

    def __init__(self, contents: Contents, **settings: Any):
        """Take the name, the version and the features from the contents."""
        self.contents = contents
        name, _, config = contents.name.partition("/")
        setattr(self, "name", name)  # a class variable in TFDS, one name per class  # noqa: B010
        self.VERSION = tfds.core.Version(contents.version)
        if config:
            self.BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=config, version=contents.version)]
        super().__init__(**settings)

    def _info(self) -> tfds.core.DatasetInfo:
        contents = self.contents
        shape = next(iter(contents.parts.values())).image.shape[1:]
        features: dict[str, Any] = {
            "image": tfds.features.Image(shape=shape, dtype=np.uint8, encoding_format="png"),
            "label": tfds.features.ClassLabel(names=list(contents.classes)),
            "index": tfds.features.Scalar(dtype=np.int64),
            "id": tfds.features.Text(),  # as TFDS's own CIFAR-10 has it
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"{contents.source}. {contents.note}",
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
            metadata=tfds.core.MetadataDict(source=contents.source, note=contents.note),
        )

    def _split_generators(self, dl_manager):
        del dl_manager
        return {split: self._generate_examples(split, part) for split, part in self.contents.parts.items()}

    def _generate_examples(self, split: str, part: Part) -> Iterator[tuple[int, dict[str, Any]]]:
        for image, label, index in zip(part.image, part.label, part.index, strict=True):
            stored = {"image": io.BytesIO(png(image)), "label": int(label), "index": int(index)}
            yield int(index), stored | {"id": f"{split}_{index:05d}"}


def png(image: np.ndarray) -> bytes:
    """Encode a uint8 image (h, w, c) with 1 or 3 channels."""
    out = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(out, "png", compress_level=1)
    return out.getvalue()


def write(contents: Contents, data_dir: Path) -> Path:
    """Prepare a data set under data_dir/<name>/<version>, and return that folder.

    Everything is written elsewhere on the same disk and renamed at the end: a run that is killed leaves
    nothing that looks prepared, and of two processes at the same time the first one wins.

    Raises:
      ValueError: if an array has the wrong dtype, rank or length, a label is out of range, or an index
        is repeated.
    """
    shapes = {split: list(part.image.shape[1:]) for split, part in contents.parts.items()}
    if len(set(map(tuple, shapes.values()))) > 1:
        raise ValueError(f"{contents.name}: the images of its splits differ in shape, {shapes}")
    for split, part in contents.parts.items():
        check(f"{contents.name} {split}", part, len(contents.classes))
    target = data_dir / contents.name / contents.version
    with scratch(data_dir) as folder:
        builder = Stored(contents, data_dir=folder, file_format="array_record")
        tfds.disable_progress_bar()
        with contextlib.redirect_stdout(io.StringIO()):  # TFDS announces a download that does not take place
            builder.download_and_prepare()
        settle(Path(builder.data_path), target)
    return target


@contextlib.contextmanager
def writing(folder: Path, flag: str) -> Iterator[None]:
    """Say in one line that a folder cannot be written to.

    Args:
      folder: where to write.
      flag: how it was named.
    Raises:
      ValueError: for any OSError inside.
    """
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"{flag}: cannot write to {folder} ({error.strerror or error}), must be a folder that can be written to"
        ) from error


@contextlib.contextmanager
def scratch(parent: Path) -> Iterator[Path]:
    """Give a folder inside `parent`, hidden from TFDS, that is gone afterwards."""
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def settle(made: Path, target: Path) -> None:
    """Rename a finished folder to its place, unless another process has put one there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.rename(made, target)
    except OSError:
        if not target.is_dir():
            raise


def check(what: str, part: Part, classes: int) -> None:
    """Raise a ValueError that begins with `what` unless the part is well formed."""
    image, label, index = part.image, part.label, part.index
    if image.dtype != np.uint8 or image.ndim != 4 or image.shape[-1] not in (1, 3) or not len(image):
        raise ValueError(
            f"{what}: images are {image.dtype}{list(image.shape)}, must be uint8[n h w c], c 1 or 3"
        )
    if not len(image) == len(label) == len(index):
        raise ValueError(
            f"{what}: {len(image)} images, {len(label)} labels, {len(index)} indices, must be equal"
        )
    if label.min() < 0 or label.max() >= classes:
        raise ValueError(
            f"{what}: labels run from {label.min()} to {label.max()}, must be in 0..{classes - 1}"
        )
    if len(np.unique(index)) != len(index):
        raise ValueError(f"{what}: an official index occurs twice")
