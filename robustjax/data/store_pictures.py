"""Write pictures as a prepared TFDS data set that keeps the bytes of their files, one checked record for each.

So a set takes the room of its files, and is decoded by those who read it: as large as one likes, for sets that do not
fit in memory. Every shard is an ArrayRecord file; a record holds the file's bytes, its label, official index, name and
CRC-32.
"""

import importlib
import re
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from robustjax.checks import reading
from robustjax.data import decode, picture_records
from robustjax.data.lazy_pictures import pool
from robustjax.data.pictures import Classified, Found, classified, from_bytes
from robustjax.data.store import scratch, settle

SHARD = 2**28  # bytes of pictures in a file, at least, but for the last
AHEAD = 64  # pictures in memory
WRITER = "group_size:1,uncompressed"  # records are read one by one, and pictures are compressed already


class Written(NamedTuple):
    """What was written.

    Attributes:
      folder: of the prepared set.
      counts: pictures by split.
      bytes: of their files.
      note: what was left out.
    """

    folder: Path
    counts: Mapping[str, int]
    bytes: int
    note: str


def write(name: str, source: Path, data_dir: Path, *, version: str = "1.0.0") -> Written:
    """Prepare a folder of pictures, one folder for each class, under data_dir/<name>/<version>.

    Splits, classes and indices are those of `pictures.by_class`. Every picture is decoded once, to meet damage now and
    not in the middle of training. All or nothing, as `store.write`; memory stays small.

    Args:
      name: of the set, letters, digits and underscores; "set/configuration" too.
      source: the raw files, in folders or zip files.
      data_dir: where data are prepared.
      version: of the set.
    Raises:
      ValueError: for another name, a folder without pictures, what `pictures.classified` refuses, or a damaged picture.
    """
    if re.fullmatch(r"[A-Za-z]\w*(/\w+)?", name) is None:
        raise ValueError(f"name is {name!r}, must be letters, digits and underscores")
    found = classified(source)
    if found is None:
        raise ValueError(f"{source}: holds no pictures, must hold a folder of them for each class")
    features: Any = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "label": tfds.features.ClassLabel(names=list(found.classes)),
            "index": tfds.features.Scalar(dtype=np.int64),
            "id": tfds.features.Text(),
            picture_records.CHECKSUM: tfds.features.Scalar(dtype=np.int64),
        }
    )
    target = data_dir / name / version
    with scratch(data_dir) as temporary:
        made = temporary / "made"
        made.mkdir()
        infos, size = [], 0
        for split in found.splits:
            lengths, held = _split(made, name.partition("/")[0], split, found, features)
            infos.append(tfds.core.SplitInfo(name=split, shard_lengths=lengths, num_bytes=held))
            size += held
        said = {"source": f"pictures of {name}, as they are in their files", "note": found.note}
        tfds.folder_dataset.write_metadata(
            data_dir=str(made),
            features=features,
            split_infos=infos,
            version=version,
            check_data=False,
            description=said["source"],
            supervised_keys=("image", "label"),
            metadata=tfds.core.MetadataDict(said),
        )
        settle(made, target)
    return Written(target, {split: len(items) for split, items in found.splits.items()}, size, found.note)


def _split(folder: Path, name: str, split: str, found: Classified, features: Any) -> tuple[list[int], int]:
    """Write the shards of a split and the list of its records; the length of each shard, and the bytes of all."""
    items = found.splits[split]
    names = [_short(one, found.classes[label]) for one, label in items]
    # A module without Python source, which type checkers do not find.
    create: Any = importlib.import_module("array_record.python.array_record_module").ArrayRecordWriter
    sums, lengths, total, held, writer = np.empty(len(items), np.int64), [], 0, 0, None
    for i, (content, (_, label)) in enumerate(zip(_contents(items), items, strict=True)):
        if writer is None:
            path = str(folder / f"shard-{len(lengths)}")
            writer = create(path, WRITER)
            lengths.append(0)
        sums[i] = zlib.crc32(content)
        record = {"image": content, "label": label, "index": i, "id": names[i]}
        writer.write(features.serialize_example(record | {picture_records.CHECKSUM: int(sums[i])}))
        lengths[-1] += 1
        total, held = total + len(content), held + len(content)
        if held >= SHARD or i + 1 == len(items):
            writer.close()
            writer, held = None, 0
    for number in range(len(lengths)):
        shard = f"{name}-{split}.array_record-{number:05d}-of-{len(lengths):05d}"
        (folder / f"shard-{number}").rename(folder / shard)
    kept = {
        "label": np.array([label for _, label in items], np.int32),
        "names": np.asarray(names, dtype=np.str_),
        "index": np.arange(len(items)),
        picture_records.CHECKSUM: sums,
    }
    decode.keep(picture_records.listing(folder, split), kept)
    return lengths, total


def _contents(items: list[tuple[Found, int]]) -> Iterator[bytes]:
    """Read the files ahead, in their order, and look whether each can be decoded."""

    def checked(item: tuple[Found, int]) -> bytes:
        (path, read), _ = item
        with reading(path, "cannot be read"):
            content = read()
        from_bytes(content, str(path)).convert("RGB")
        return content

    for first in range(0, len(items), AHEAD):
        yield from pool().map(checked, items[first : first + AHEAD])


def _short(found: Found, kind: str) -> str:
    """Name a picture by its class and the path below it."""
    parts = found[0].parts
    return "/".join(parts[parts.index(kind) :]) if kind in parts else found[0].name
