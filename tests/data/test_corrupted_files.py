"""Damaged files of every kind that is read: a result, or a ValueError of one line that names the file.

Files are made from a seed: cut off, with flipped bits, with another beginning, with a header that promises too much,
padded, empty. ROBUSTJAX_FUZZ says how many of all kinds together, 600 by default; 10,000 take some minutes.
"""

import base64
import csv
import gzip
import io
import json
import os
import pickle
import resource
import struct
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import scipy.io
from PIL import Image

from robustjax.data import (
    cifar,
    extra,
    imagenet9,
    multi_illumination,
    omniglot,
    paired,
    raw,
    salient_imagenet,
    sources,
    store,
    svhn,
    tiny_imagenet,
    tiny_images,
    trees,
)
from robustjax.data.rival10 import _mask
from robustjax.models import tensorfiles
from robustjax.runtime import result_files
from robustjax.runtime.run_folder import open_run
from robustjax.runtime.snapshot import Snapshot

TOTAL = int(os.environ.get("ROBUSTJAX_FUZZ", "600"))
RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (10, 32, 32, 3), np.uint8)
GREY = RNG.integers(0, 256, (10, 28, 28), np.uint8)
LABEL = (np.arange(10) % 3).astype(np.uint8)
CHECKPOINTS = Path(__file__).parent.parent / "models" / "checkpoints"
MEMORY = 2**30  # bytes that reading may add to this process at its peak


# --- whole files ----------------------------------------------------------------------------------------


def saved(image: Image.Image, kind: str = "PNG", **settings) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **settings)
    return out.getvalue()


def picture(kind: str, **settings) -> bytes:
    return saved(Image.fromarray(COLOUR[0]), kind, **settings)


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def npz(save: Callable = np.savez, **arrays) -> bytes:
    out = io.BytesIO()
    save(out, **arrays)
    return out.getvalue()


def zipped(files: dict[str, bytes], kind: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", kind) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def mat() -> bytes:
    out = io.BytesIO()
    scipy.io.savemat(out, {"X": COLOUR.transpose(1, 2, 3, 0), "y": (LABEL + 1)[:, None]}, do_compression=True)
    return out.getvalue()


def planes() -> np.ndarray:
    return COLOUR.transpose(0, 3, 1, 2).reshape(10, -1)


def table(rows: list[dict[str, object]], delimiter: str = ",") -> bytes:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def checkpoint_of_safetensors() -> bytes:
    return safetensors.numpy.save({"layer.a": np.ones((2, 3), np.float32), "layer.b": np.ones(5, np.float16)})


# --- kinds: the files that are damaged, those that lie beside them, and what reads them --------------------


class Kind:
    """A kind of file: where it lies, what it holds, what reads it."""

    def __init__(self, name: str, content: bytes, read: Callable[[Path, Path], object], **beside: bytes):
        self.name, self.content, self.read = name, content, read
        self.beside = {key.replace("__", "/").replace("_DOT_", "."): value for key, value in beside.items()}


def contents(name: str) -> Callable[[Path, Path], object]:
    return lambda folder, path: raw.contents(name, folder)


def classes(kind: str, suffix: str, **settings) -> Kind:
    return Kind(f"a/x.{suffix}", picture(kind, **settings), contents("mine"), b__y_DOT_png=picture("PNG"))


def prepared() -> dict[str, bytes]:
    """The files of a prepared set, by their place."""
    part = store.Part(COLOUR[:, :8, :8], LABEL.astype(np.int32), np.arange(10))
    with tempfile.TemporaryDirectory() as folder:
        store.write(store.Contents("mine", "1.0.0", ("a", "b", "c"), {"test": part}, "here"), Path(folder))
        return {str(p.relative_to(folder)): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}


def of_prepared(suffix: str) -> Kind:
    (name,) = (name for name in PREPARED if name.endswith(suffix))
    beside = {key: content for key, content in PREPARED.items() if key != name}
    return Kind(name, PREPARED[name], lambda f, p: sources.load("mine", "test", data_dir=f), **beside)


def scene(suffix: str, content: bytes, read: Callable[[Path], object]) -> Kind:
    return Kind(f"attic/{suffix}", content, lambda f, p: read(p.parent))


PREPARED = prepared()
LABELS = gzip.compress(idx(LABEL))
PICKLED = {b"data": planes(), b"labels": LABEL.tolist()}
RESULTS = {
    "attacks": np.array(["a"]),
    "index": np.arange(3),
    "label": np.zeros(3, np.int32),
    "clean": np.zeros(3, np.int32),
    "already": np.zeros(3, bool),
    "outcome": np.zeros((1, 3), np.int8),
    "margin": np.zeros((1, 3), np.float32),
    "x": np.zeros((3, 2, 2, 1), np.float32),
    "prediction": np.zeros(3, np.int32),
    "value": np.zeros(3, np.float32),
    "distance": np.zeros(3),
    "steps": np.zeros(1, np.int64),
    "seconds": np.zeros(1),
    "about": np.array("{}"),
}
KINDS: dict[str, Kind] = {
    "png": classes("PNG", "png"),
    "png palette": Kind(
        "a/x.png",
        saved(Image.fromarray(COLOUR[0]).quantize(9), transparency=b"\0\1"),
        contents("mine"),
        b__y_DOT_png=picture("PNG"),
    ),
    "png 16 bit": Kind(
        "a/x.png",
        saved(Image.fromarray(GREY[0].astype(np.uint16) * 257)),
        contents("mine"),
        b__y_DOT_png=saved(Image.fromarray(GREY[1])),
    ),
    "jpeg": classes("JPEG", "jpg"),
    "jpeg progressive": classes("JPEG", "jpeg", progressive=True, quality=80),
    "bmp": classes("BMP", "bmp"),
    "gif": classes("GIF", "gif"),
    "tif": classes("TIFF", "tif"),
    "tif lzw": classes("TIFF", "tiff", compression="tiff_lzw"),
    "webp": classes("WEBP", "webp"),
    "ppm": classes("PPM", "ppm"),
    "pair": Kind(
        "image/x.jpg",
        picture("JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"),
        lambda f, p: paired.paired(f),
        perturbed__x_DOT_png=picture("PNG"),
    ),
    "mask in a pickle": Kind(
        "x.pkl",
        pickle.dumps({"entire-object": base64.b64encode(picture("PNG")).decode()}),
        lambda f, p: _mask(p),
    ),
    "npy": Kind("test_images.npy", npy(GREY), contents("mine"), test_labels_DOT_npy=npy(LABEL)),
    "npy of labels": Kind(
        "test_labels.npy", npy(LABEL.astype(np.int64)), contents("mine"), test_images_DOT_npy=npy(GREY)
    ),
    "npy alone": Kind("images.npy", npy(COLOUR), lambda f, p: extra.unlabelled(f)),
    "npy of CIFAR-10-C": Kind(
        "fog.npy", npy(COLOUR), lambda f, p: cifar.corrupted(f, "fog_3"), labels_DOT_npy=npy(LABEL)
    ),
    "npy mask": Kind("mask.npy", npy(GREY[0] > 9), lambda f, p: imagenet9._mask(p)),
    "npz": Kind(
        "train.npz",
        npz(images=GREY, labels=LABEL, index=np.arange(10), class_names=np.array(["a", "b", "c"])),
        contents("mine"),
    ),
    "npz compressed": Kind(
        "train.npz", npz(np.savez_compressed, images=GREY, labels=LABEL), contents("mine")
    ),
    "idx": Kind(
        "t10k-images-idx3-ubyte", idx(GREY), contents("mine"), **{"t10k-labels-idx1-ubyte_DOT_gz": LABELS}
    ),
    "idx gz": Kind(
        "t10k-images-idx3-ubyte.gz",
        gzip.compress(idx(GREY)),
        contents("mine"),
        **{"t10k-labels-idx1-ubyte_DOT_gz": LABELS},
    ),
    "idx gz of labels": Kind(
        "t10k-labels-idx1-ubyte.gz", LABELS, contents("mine"), **{"t10k-images-idx3-ubyte": idx(GREY)}
    ),
    "mat": Kind("test_32x32.mat", mat(), lambda f, p: svhn.svhn(f)),
    "cifar pickle": Kind("data_batch_1", pickle.dumps(PICKLED, 2), contents("mine")),
    "cifar pickle of Python 3": Kind("test_batch", pickle.dumps(PICKLED, 4), contents("mine")),
    "cifar meta": Kind(
        "batches.meta",
        pickle.dumps({"label_names": ["a", "b", "c"]}, 2),
        contents("mine"),
        data_batch_1=pickle.dumps(PICKLED, 2),
    ),
    "cifar binary": Kind(
        "test_batch.bin",
        b"".join(bytes([k]) + row.tobytes() for k, row in zip(LABEL, planes(), strict=True)),
        contents("mine"),
    ),
    "pseudo-labels": Kind(
        "ti.pickle",
        pickle.dumps({"data": COLOUR, "extrapolated_targets": LABEL.tolist()}),
        lambda f, p: extra.pseudo_labelled(f),
    ),
    "zip": Kind(
        "mine.zip",
        zipped({"train/a/x.png": picture("PNG"), "train/b/y.jpg": picture("JPEG")}),
        contents("mine"),
    ),
    "zip of Omniglot": Kind(
        "images_background.zip",
        zipped(
            {f"images_background/A/{c}/{i}.png": picture("PNG") for c in "xy" for i in range(2)},
            zipfile.ZIP_STORED,
        ),
        lambda f, p: omniglot.omniglot(f),
    ),
    "table of Tiny ImageNet": Kind(
        "val_annotations.txt",
        b"val_0.png\tn01\t0\nval_1.png\tn02\t1\n",
        lambda f, p: tiny_imagenet.tiny_imagenet(f),
        wnids_DOT_txt=b"n01\nn02\n",
        val__val_0_DOT_png=picture("PNG"),
        val__val_1_DOT_png=picture("PNG"),
    ),
    "table of classes": Kind(
        "classes.tsv",
        table(
            [
                {"class_index": 0, "wnid": "n01", "words": "a"},
                {"class_index": 1, "wnid": "n02", "words": "b"},
            ],
            "\t",
        ),
        lambda f, p: tiny_imagenet.tiny_imagenet(f),
        val_labels_DOT_tsv=table([{"file": "val_0.png", "wnid": "n01"}], "\t"),
        val__val_0_DOT_png=picture("PNG"),
    ),
    "tiny images": Kind(
        "tiny_images.bin", planes().tobytes(), lambda f, p: tiny_images.sample(f, 3), a_idxs_DOT_txt=b"1\n2\n"
    ),
    "list of numbers": Kind(
        "a_idxs.txt",
        b"1\n2\n5\n",
        lambda f, p: tiny_images.sample(f, 3),
        tiny_images_DOT_bin=planes().tobytes(),
    ),
    "csv": Kind(
        "answers.csv",
        table([{"Input.class_index": 1, "Input.feature_index": 7, "Answer.main": "background"}] * 3),
        lambda f, p: salient_imagenet.annotations(p),
    ),
    "json": Kind(
        "map.json",
        json.dumps({str(k): k % 9 for k in range(1000)}).encode(),
        lambda f, p: imagenet9.to_imagenet9(p),
    ),
    "json of a tree": Kind(
        "map.json", json.dumps({"a": ["b", {"c": 1.5}]}).encode(), lambda f, p: trees.mapping(p)
    ),
    "dictionary in Python": Kind(
        "wordnet_dict.py", b"{0: 'n01', 1: 'n02', 2: 'n03'}", lambda f, p: salient_imagenet._wnids(p)
    ),
    "records of a prepared set": of_prepared("of-00001"),
    "facts of a prepared set": of_prepared("dataset_info.json"),
    "features of a prepared set": of_prepared("features.json"),
    "classes of a prepared set": of_prepared("labels.txt"),
    "flash of a scene": scene(
        "dir_3_mip7.jpg",
        saved(Image.fromarray(np.full((31, 46, 3), 90, np.uint8)), "JPEG"),
        lambda f: multi_illumination._checked(f, 3, 7),
    ),
    "materials of a scene": scene(
        "materials_mip7.png",
        saved(Image.fromarray(GREY[0] % 41).resize((46, 31), Image.Resampling.NEAREST)),
        lambda f: multi_illumination.materials(f, 7),
    ),
    "pt": Kind("x.pt", (CHECKPOINTS / "zip.pt").read_bytes(), lambda f, p: tensorfiles.state_dict(p)),
    "pt of old": Kind(
        "x.pt", (CHECKPOINTS / "legacy.pt").read_bytes(), lambda f, p: tensorfiles.state_dict(p)
    ),
    "safetensors": Kind("x.safetensors", checkpoint_of_safetensors(), lambda f, p: tensorfiles.state_dict(p)),
    "progress": Kind("progress.npz", npz(a=np.arange(5), b=GREY), lambda f, p: Snapshot(p).load()),
    "results": Kind("results.npz", npz(np.savez_compressed, **RESULTS), lambda f, p: result_files.read(p)),
    "config of a run": Kind(
        "config.json",
        json.dumps({"config": {"seed": 1}, "starts": []}).encode(),
        lambda f, p: open_run(f, made_by="a script"),
    ),
}


# --- damage ---------------------------------------------------------------------------------------------


def cut(rng: np.random.Generator, content: bytes) -> bytes:
    return content[: int(rng.integers(0, len(content)))]


def flipped(rng: np.random.Generator, content: bytes, reach: int | None = None) -> bytes:
    out = bytearray(content)
    for place in rng.integers(0, min(reach or len(out), len(out)), int(rng.integers(1, 9))):
        out[place] ^= 1 << int(rng.integers(8))
    return bytes(out)


def flipped_header(rng: np.random.Generator, content: bytes) -> bytes:
    return flipped(rng, content, 64)


def other_beginning(rng: np.random.Generator, content: bytes) -> bytes:
    begins = (
        *(b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a", b"BM", b"II*\0", b"RIFF", b"P6\n", b"PK\3\4"),
        *(
            b"\x93NUMPY\1\0",
            b"\x1f\x8b\x08",
            b"\0\0\x08\x03",
            b"\x80\x02",
            b"\x80\x04",
            b"<html>",
            b"MATLAB 5.0",
        ),
    )
    begin = begins[int(rng.integers(len(begins)))]
    return begin + content[len(begin) :]


def enlarged(rng: np.random.Generator, content: bytes) -> bytes:
    """Put large numbers where a header has its sizes."""
    out, large = bytearray(content), (0xFFFFFFFF, 0x7FFFFFFF, 0x00FFFFFF, 0x7FFF, 0xFFFF, 10**9)
    for place in rng.integers(0, max(min(len(out), 256) - 4, 1), int(rng.integers(1, 4))):
        order = "<I" if rng.integers(2) else ">I"
        out[place : place + 4] = struct.pack(order, large[int(rng.integers(len(large)))])
    for digit in (b"(10,", b"(28,", b"32 32\n"):
        if digit in out and rng.integers(2):
            out = out.replace(digit, digit[:1] + b"99999999999" + digit[1:])
    return bytes(out)


def shuffled(rng: np.random.Generator, content: bytes) -> bytes:
    a, b = sorted(int(i) for i in rng.integers(0, len(content) + 1, 2))
    return content[:a] + content[b:] + content[a:b]


def padded(rng: np.random.Generator, content: bytes) -> bytes:
    return content + rng.bytes(int(rng.integers(1, 200)))


def empty(rng: np.random.Generator, content: bytes) -> bytes:
    return b""


def noise(rng: np.random.Generator, content: bytes) -> bytes:
    return rng.bytes(int(rng.integers(1, 400)))


DAMAGE = (
    cut,
    flipped,
    flipped_header,
    flipped,
    other_beginning,
    enlarged,
    shuffled,
    padded,
    enlarged,
    noise,
    empty,
)


@pytest.mark.parametrize("name", KINDS)
def test_whole_files_are_read(name, tmp_path):
    kind = KINDS[name]
    place(kind, tmp_path, kind.content)
    assert kind.read(tmp_path, tmp_path / kind.name) is not None


@pytest.mark.parametrize("name", KINDS)
def test_damaged_files_end_in_a_line_that_names_them(name, tmp_path):
    kind, rng = KINDS[name], np.random.default_rng(list(name.encode()))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(-(-TOTAL // len(KINDS))):
        folder = tmp_path / str(number)
        damage = DAMAGE[number % len(DAMAGE)]
        content = damage(rng, kind.content)
        place(kind, folder, content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                kind.read(folder, folder / kind.name)
            except ValueError as error:
                said = str(error)
                assert "\n" not in said and len(said) < 1000, (damage.__name__, number, said)
                names = (str(folder), Path(kind.name).name, Path(kind.name).stem, "mine")
                assert any(part in said for part in names), (damage.__name__, number, said)
            except Exception as error:
                raise AssertionError(
                    f"{name} {damage.__name__} {number}: {type(error).__name__}: {error}"
                ) from error
    assert 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) < MEMORY


def place(kind: Kind, folder: Path, content: bytes) -> None:
    for name, bytes_ in {**kind.beside, kind.name: content}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes_)
