"""Raw files that the tests write themselves, in every layout: what is read, and what is refused."""

import gzip
import io
import os
import pickle
import struct
import unicodedata
import zipfile

import numpy as np
import pytest
from PIL import Image
from sklearn.utils import shuffle

from robustjax.data import gtsrb, load, raw, store, svhn, tiny_imagenet
from robustjax.data.known import KNOWN, Known

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (12, 28, 28), np.uint8)
COLOUR = RNG.integers(0, 256, (12, 32, 32, 3), np.uint8)
LABEL = RNG.permutation(np.arange(12) % 3).astype(np.uint8)


def put(path, content: bytes):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def coded(array: np.ndarray, kind="PNG") -> bytes:
    out = io.BytesIO()
    Image.fromarray(array).save(out, kind)
    return out.getvalue()


def zipped(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def planes(image: np.ndarray) -> np.ndarray:
    return image.transpose(0, 3, 1, 2).reshape(len(image), -1)


def assert_part(part, image, label):
    np.testing.assert_array_equal(part.image, image.reshape(len(image), *image.shape[1:3], -1))
    np.testing.assert_array_equal(part.label, label)
    np.testing.assert_array_equal(part.index, np.arange(len(image)))


# --- what is read ---


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("dot", ["-", "."])
def test_idx(tmp_path, packed, dot):
    pack, end = (gzip.compress, ".gz") if packed else (bytes, "")
    for split, rows in (("train", slice(0, 8)), ("t10k", slice(8, 12))):
        put(tmp_path / f"{split}-images{dot}idx3-ubyte{end}", pack(idx(GREY[rows])))
        put(tmp_path / f"{split}-labels{dot}idx1-ubyte{end}", pack(idx(LABEL[rows])))
    contents = raw.contents("mine", tmp_path)
    assert_part(contents.parts["train"], GREY[:8], LABEL[:8])
    assert_part(contents.parts["test"], GREY[8:], LABEL[8:])
    assert contents.classes == ("0", "1", "2")


def test_idx_named_x_and_y_is_picked_by_name(tmp_path, monkeypatch):
    for name, rows in (("one_test", slice(0, 5)), ("two", slice(5, 12))):
        put(tmp_path / f"X_{name}-idx3-ubyte.gz", gzip.compress(idx(GREY[rows])))
        put(tmp_path / f"y_{name}-idx1-ubyte.gz", gzip.compress(idx(LABEL[rows])))
    with pytest.raises(ValueError, match="second file of test images"):
        raw.contents("mine", tmp_path)
    monkeypatch.setitem(KNOWN, "mine", Known(only="two"))
    assert_part(raw.contents("mine", tmp_path).parts["test"], GREY[5:], LABEL[5:])


@pytest.mark.parametrize("protocol", [2, 4])
def test_cifar10_pickles(tmp_path, protocol):
    for n, rows in enumerate((slice(0, 5), slice(5, 9)), 1):
        batch = {
            b"data": planes(COLOUR[rows]),
            b"labels": [int(v) for v in LABEL[rows]],
            b"batch_label": b"x",
        }
        put(tmp_path / "cifar-10-batches-py" / f"data_batch_{n}", pickle.dumps(batch, protocol))
    batch = {"data": planes(COLOUR[9:]), "labels": LABEL[9:].tolist()}
    put(tmp_path / "cifar-10-batches-py" / "test_batch", pickle.dumps(batch, protocol))
    put(
        tmp_path / "cifar-10-batches-py" / "batches.meta",
        pickle.dumps({"label_names": ["a", "b", "c"]}, protocol),
    )
    contents = raw.contents("mine", tmp_path)
    assert_part(contents.parts["train"], COLOUR[:9], LABEL[:9])
    assert_part(contents.parts["test"], COLOUR[9:], LABEL[9:])
    assert contents.classes == ("a", "b", "c")


def test_cifar100_pickles(tmp_path):
    for split in ("train", "test"):
        batch = {"data": planes(COLOUR), "fine_labels": LABEL.tolist(), "coarse_labels": [0] * 12}
        put(tmp_path / split, pickle.dumps(batch, 2))
    contents = raw.contents("mine", tmp_path)
    assert_part(contents.parts["train"], COLOUR, LABEL)
    assert_part(contents.parts["test"], COLOUR, LABEL)


def test_cifar_binary(tmp_path):
    ten = np.concatenate([LABEL[:, None], planes(COLOUR)], axis=1)
    put(tmp_path / "ten" / "data_batch_1.bin", ten[:7].tobytes())
    put(tmp_path / "ten" / "data_batch_2.bin", ten[7:].tobytes())
    put(tmp_path / "ten" / "batches.meta.txt", b"a\nb\nc\n")
    assert_part(raw.contents("mine", tmp_path / "ten").parts["train"], COLOUR, LABEL)
    assert raw.contents("mine", tmp_path / "ten").classes == ("a", "b", "c")
    hundred = np.concatenate([np.full((12, 1), 9, np.uint8), ten], axis=1)
    put(tmp_path / "hundred" / "test.bin", hundred.tobytes())
    assert_part(raw.contents("mine", tmp_path / "hundred").parts["test"], COLOUR, LABEL)


def test_cifar10_c_arrays(tmp_path):
    all_levels = RNG.integers(0, 256, (50, 32, 32, 3), np.uint8)
    np.save(tmp_path / "elastic_transform.npy", all_levels)
    np.save(tmp_path / "fog.npy", all_levels[::-1])
    np.save(tmp_path / "labels.npy", np.tile(np.arange(10), 5))
    contents = raw.contents("cifar10_corrupted/elastic_3", tmp_path)
    assert_part(contents.parts["test"], all_levels[20:30], np.arange(10))
    with pytest.raises(ValueError, match="must end in a severity"):
        raw.contents("cifar10_corrupted/fog", tmp_path)
    with pytest.raises(ValueError, match=r"must hold snow\.npy and labels\.npy"):
        raw.contents("cifar10_corrupted/snow_1", tmp_path)


def test_svhn(tmp_path):
    import scipy.io

    label = np.where(LABEL == 0, 10, LABEL)[:, None]
    scipy.io.savemat(tmp_path / "train_32x32.mat", {"X": COLOUR.transpose(1, 2, 3, 0), "y": label})
    scipy.io.savemat(tmp_path / "extra_32x32.mat", {"X": COLOUR, "y": label})
    contents = raw.contents("mine", tmp_path)
    assert set(contents.parts) == {"train"}
    assert_part(contents.parts["train"], COLOUR, LABEL)


def test_npz_in_one_file(tmp_path):
    np.savez(
        tmp_path / "mine.npz",
        x_train=COLOUR[:8],
        y_train=LABEL[:8],
        x_test=COLOUR[8:],
        y_test=LABEL[8:, None],
    )
    contents = raw.contents("mine", tmp_path)
    assert_part(contents.parts["train"], COLOUR[:8], LABEL[:8])
    assert_part(contents.parts["test"], COLOUR[8:], LABEL[8:])


def test_npz_and_npy_in_two_files(tmp_path):
    np.savez_compressed(tmp_path / "k-test-imgs.npz", GREY)
    np.savez_compressed(tmp_path / "k-test-labels.npz", LABEL)
    np.save(tmp_path / "train_images.npy", COLOUR.transpose(0, 3, 1, 2))
    np.save(tmp_path / "train_labels.npy", LABEL.astype(np.int64))
    with pytest.raises(ValueError, match="differ in shape"):
        store.write(raw.contents("mine", tmp_path), tmp_path / "out")
    for name in ("train_images.npy", "train_labels.npy"):
        (tmp_path / name).rename(tmp_path.parent / f"{tmp_path.name}-{name}")
    assert_part(raw.contents("mine", tmp_path).parts["test"], GREY, LABEL)


def test_channels_first_becomes_channels_last(tmp_path):
    np.save(tmp_path / "images.npy", COLOUR.transpose(0, 3, 1, 2))
    np.save(tmp_path / "labels.npy", LABEL)
    assert_part(raw.contents("mine", tmp_path).parts["test"], COLOUR, LABEL)


def test_npz_with_official_numbers_may_be_a_part_of_a_known_set(tmp_path, monkeypatch):
    """Images of a known set that are not all there come in official order, and are counted."""
    monkeypatch.setitem(KNOWN, "mine", Known(counts={"test": 20}, sha256={"test": ("no", "no")}))
    number = RNG.permutation(20)[:12]
    arrays = {"test_images": COLOUR, "test_labels": LABEL, "test_index": number}
    np.savez(tmp_path / "mine.npz", **arrays, class_names=["cat", "dog", "ship"])
    contents = raw.contents("mine", tmp_path)
    order, part = np.argsort(number), contents.parts["test"]
    np.testing.assert_array_equal(part.image, COLOUR[order])
    np.testing.assert_array_equal(part.label, LABEL[order])
    np.testing.assert_array_equal(part.index, number[order])
    assert contents.note == "12 of 20 test images" and contents.source == "raw files of mine"
    assert contents.classes == ("cat", "dog", "ship")
    np.savez(tmp_path / "mine.npz", **arrays | {"test_index": number + 20})
    with pytest.raises(ValueError, match="must be in 0"):
        raw.contents("mine", tmp_path)
    np.savez(tmp_path / "mine.npz", **arrays | {"test_index": number[:5]})
    with pytest.raises(ValueError, match="12 test images with 5 numbers, must be equal"):
        raw.contents("mine", tmp_path)
    np.savez(
        tmp_path / "mine.npz", test_images=COLOUR, test_labels=LABEL
    )  # no numbers: which images are they?
    with pytest.raises(ValueError, match="12 test images found, must be 20"):
        raw.contents("mine", tmp_path)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_of_16_bit_grey_the_upper_8_are_kept(tmp_path, kind):
    """Pillow's conversion cuts at 255, which makes nearly all of a 16-bit picture white."""
    wide = RNG.integers(0, 65536, (8, 8), np.uint16)
    put(tmp_path / "a" / f"1.{kind.lower()}", coded(wide, kind))
    part = raw.contents("mine", tmp_path).parts["test"]
    np.testing.assert_array_equal(part.image[0, ..., 0], wide >> 8)


def test_16_bit_omniglot_is_inverted_too(tmp_path):
    wide = RNG.integers(0, 65536, (28, 28), np.uint16)
    put(tmp_path / "images_evaluation" / "Greek" / "character01" / "1.png", coded(wide))
    part = raw.contents("omniglot", tmp_path).parts["test"]
    np.testing.assert_array_equal(part.image[0, ..., 0], 255 - (wide >> 8))


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "PPM"])
def test_other_kinds_of_pictures_are_read(tmp_path, kind):
    """A class of such pictures alone would vanish, and shift the labels of those after it."""
    suffix = {"TIFF": "tif"}.get(kind, kind.lower())
    put(tmp_path / "a" / f"1.{suffix}", coded(GREY[0], kind))
    put(tmp_path / "b" / "1.png", coded(GREY[1]))
    contents = raw.contents("mine", tmp_path)
    np.testing.assert_array_equal(contents.parts["test"].image[..., 0], GREY[:2])
    assert contents.classes == ("a", "b")


def test_names_that_look_the_same_are_one_class(tmp_path):
    """macOS stores an accent as a letter of its own (NFD), others with its letter (NFC)."""
    composed, apart = (unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD"))
    put(tmp_path / "train" / composed / "1.png", coded(GREY[0]))
    put(tmp_path / "train" / apart / "2.png", coded(GREY[1]))
    put(tmp_path / "test.zip", zipped({f"{apart}/3.png": coded(GREY[2])}))
    contents = raw.contents("mine", tmp_path)
    assert contents.classes == (composed,)
    assert_part(contents.parts["train"], GREY[:2], [0, 0])
    assert_part(contents.parts["test"], GREY[2:3], [0])


def test_links_to_folders_are_followed(tmp_path):
    data, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    for name in "ab":
        put(data / "train" / name / "1.png", coded(GREY[0]))
    put(elsewhere / "c" / "1.png", coded(GREY[1]))
    (data / "train" / "c").symlink_to(elsewhere / "c")
    (data / "test").symlink_to(elsewhere)
    (elsewhere / "c" / "up").symlink_to(elsewhere)  # a circle
    contents = raw.contents("mine", data)
    assert contents.classes == ("a", "b", "c")
    assert contents.parts["train"].label.tolist() == [0, 1, 2] and contents.parts["test"].label.tolist() == [
        2
    ]


@pytest.mark.parametrize(
    "more, words",
    [
        ({"train/b/": b""}, "train/b holds nothing, must hold pictures"),
        ({"train/b/1.heic": b"x", "train/b/2.heic": b"x"}, "train/b holds 2 .heic, must hold pictures"),
    ],
)
def test_a_class_without_pictures_is_named(tmp_path, more, words):
    """Left out, it would shift the labels of the classes after it."""
    for name, content in ({f"train/{c}/1.png": coded(GREY[0]) for c in "ac"} | more).items():
        if name.endswith("/"):
            (tmp_path / name).mkdir(parents=True)
        else:
            put(tmp_path / name, content)
    with pytest.raises(ValueError, match=words):
        raw.contents("mine", tmp_path)


def test_what_is_left_out_of_a_class_is_counted(tmp_path):
    put(tmp_path / "train" / "a" / "1.png", coded(GREY[0]))
    put(tmp_path / "train" / "a" / "2.heic", b"x")
    assert raw.contents("mine", tmp_path).note == "left out: 1 .heic"


@pytest.mark.parametrize("name, inner", [("test", "a/1.png"), ("all", "test/a/1.png")])
def test_packed_and_unpacked_at_once_is_refused(tmp_path, name, inner):
    """Every picture would count twice."""
    put(tmp_path / "test" / "a" / "1.png", coded(GREY[0]))
    put(tmp_path / f"{name}.zip", zipped({inner: coded(GREY[0])}))
    with pytest.raises(ValueError, match=rf"holds {name}\.zip and .*, packed and unpacked"):
        raw.contents("mine", tmp_path)


@pytest.mark.parametrize("archive", [False, True])
def test_pictures_in_a_folder_for_each_class(tmp_path, archive):
    names = {}
    for split, rows in (("train", range(8)), ("val", range(8, 12))):
        for i in rows:
            names[f"{split}/{'abc'[LABEL[i]]}/images/{i:03}.png"] = coded(COLOUR[i])
    if archive:
        put(
            tmp_path / "all.zip",
            zipped({f"top/{k}": v for k, v in names.items()} | {"top/readme.txt": b"hello"}),
        )
    else:
        for name, content in names.items():
            put(tmp_path / name, content)
    contents = raw.contents("mine", tmp_path)
    assert contents.classes == ("a", "b", "c") and set(contents.parts) == {"train", "validation"}
    for split, rows in (("train", range(8)), ("validation", range(8, 12))):
        order = sorted(rows, key=lambda i: (LABEL[i], i))  # by path: the class, then the name
        assert_part(contents.parts[split], COLOUR[order], LABEL[order])


def test_pictures_in_zips_named_after_the_split(tmp_path):
    for split in ("train", "test"):
        put(tmp_path / f"{split}.zip", zipped({f"a/{i}.png": coded(GREY[i]) for i in range(3)}))
    contents = raw.contents("mine", tmp_path)
    assert_part(contents.parts["train"], GREY[:3], [0, 0, 0])
    assert contents.parts["test"].image.shape == (3, 28, 28, 1)


def test_pictures_of_several_sizes_need_a_size(tmp_path):
    put(tmp_path / "a" / "1.png", coded(COLOUR[0]))
    put(tmp_path / "a" / "2.png", coded(COLOUR[1, :16]))
    with pytest.raises(ValueError, match="16 x 32 pixels, the first picture has 32 x 32; give a size"):
        raw.contents("mine", tmp_path)
    image = raw.contents("mine", tmp_path, size=16).parts["test"].image
    np.testing.assert_allclose(image[0], COLOUR[0].reshape(16, 2, 16, 2, 3).mean(axis=(1, 3)), atol=0.51)
    np.testing.assert_array_equal(image[1], COLOUR[1, :16, 8:24])


def test_omniglot_is_inverted_scaled_and_counted_once(tmp_path):
    blank = np.full((105, 105), 255, np.uint8)
    drawn = blank.copy()
    drawn[:, 45:60] = 0
    inside = {
        f"images_background_small1/Greek/character0{c}/{c}_{i}.png": coded(drawn)
        for c in (1, 2)
        for i in (1, 2)
    }
    put(tmp_path / "images_background_small1.zip", zipped(inside))
    again = {k.replace("small1", "small2"): v for k, v in inside.items()}
    more = {"images_background_small2/Tifinagh/character01/9_1.png": coded(blank)}
    put(tmp_path / "images_background_small2.zip", zipped(again | more))
    contents = raw.contents("omniglot", tmp_path)
    part = contents.parts["test"]
    assert contents.classes == ("Greek/character01", "Greek/character02", "Tifinagh/character01")
    np.testing.assert_array_equal(part.label, [0, 0, 1, 1, 2])
    assert part.image.shape == (5, 28, 28, 1)
    assert not part.image[4].any() and not part.image[0, :, :11].any()
    # Averaging areas keeps the amount of ink.
    np.testing.assert_allclose(part.image[0].mean(), 255 * 15 / 105, atol=0.5)


TABLE = "class_index\twnid\twords\n0\tn02124075\tEgyptian cat\n1\tn04067472\treel\n2\tn07749582\tlemon\n"


def tiny(folder, count, size=8):
    image = RNG.integers(0, 256, (count, size, size, 3), np.uint8)
    rows = [f"val_{i}.JPEG\t{i % 3}\t{['n02124075', 'n04067472', 'n07749582'][i % 3]}" for i in range(count)]
    put(folder / "val_images.zip", zipped({f"val_{i}.JPEG": coded(x) for i, x in enumerate(image)}))
    put(folder / "val_labels.tsv", "\n".join(["file\tclass_index\twnid", *rows]).encode())
    put(folder / "classes.tsv", TABLE.encode())
    return image


def test_tiny_imagenet_validation_pictures_with_a_table(tmp_path, monkeypatch):
    monkeypatch.setitem(KNOWN, "tiny_imagenet", Known())
    image = tiny(tmp_path, 12)
    contents = raw.contents("tiny_imagenet", tmp_path)
    assert_part(contents.parts["validation"], image, np.arange(12) % 3)  # val_10 follows val_9, not val_1
    assert contents.classes == ("n02124075 Egyptian cat", "n04067472 reel", "n07749582 lemon")


def test_tiny_imagenet_outliers_have_no_cats_and_no_overlap(tmp_path, monkeypatch):
    monkeypatch.setattr(tiny_imagenet, "AUXILIARY", 8)
    image = tiny(tmp_path, 12)
    parts = raw.contents("tiny_imagenet/outliers", tmp_path).parts
    assert parts["train"].index.tolist() == [1, 2, 4, 5, 7] and parts["test"].index.tolist() == [8, 10, 11]
    np.testing.assert_array_equal(parts["test"].image, image[[8, 10, 11]])


def test_tiny_imagenet_as_distributed(tmp_path, monkeypatch):
    monkeypatch.setitem(KNOWN, "tiny_imagenet", Known())
    top = tmp_path / "tiny-imagenet-200"
    put(top / "wnids.txt", b"n2\nn1\n")
    put(top / "words.txt", b"n1\tapple\nn2\tboat, ship\nn3\tother\n")
    for wnid in ("n1", "n2"):
        put(top / "train" / wnid / "images" / f"{wnid}_0.JPEG", coded(COLOUR[int(wnid[1])]))
    for i in (0, 1):
        put(top / "val" / "images" / f"val_{i}.JPEG", coded(COLOUR[5 + i]))
    put(top / "val" / "val_annotations.txt", b"val_0.JPEG\tn1\t0\t0\t1\t1\nval_1.JPEG\tn2\t0\t0\t1\t1\n")
    put(top / "test" / "images" / "test_0.JPEG", coded(COLOUR[9]))
    contents = raw.contents("tiny_imagenet", tmp_path)
    assert contents.classes == ("n2 boat, ship", "n1 apple")
    assert_part(contents.parts["train"], COLOUR[1:3], [1, 0])
    assert_part(contents.parts["validation"], COLOUR[5:7], [1, 0])


def test_pictures_of_no_class_are_in_the_order_of_their_numbers_and_of_one_size(tmp_path, monkeypatch):
    wide = RNG.integers(0, 256, (36, 40, 3), np.uint8)
    for number in (10, 9, 2):
        put(tmp_path / "LSUN" / "test" / f"{number}.jpg", coded(COLOUR[number]))
    put(tmp_path / "LSUN" / "test" / "other.png", coded(wide))
    with pytest.raises(ValueError, match=r"lsun_crop: 4 test images found, must be 10,000"):
        raw.contents("lsun_crop", tmp_path)
    monkeypatch.setitem(KNOWN, "lsun_crop", Known())
    part = raw.contents("lsun_crop", tmp_path).parts["test"]
    assert part.image.shape == (4, 32, 32, 3) and not part.label.any()
    np.testing.assert_array_equal(part.image[1:], COLOUR[[2, 9, 10]])
    assert raw.contents("lsun_crop", tmp_path, size=8).parts["test"].image.shape == (4, 8, 8, 3)


def test_traffic_signs_are_read_and_tested_as_their_shuffle_has_them(tmp_path, monkeypatch):
    monkeypatch.setitem(KNOWN, "gtsrb/aloe", Known())
    monkeypatch.setattr(gtsrb, "TESTED", 5)
    for name, rows in (("train", slice(0, 6)), ("valid", slice(6, 8)), ("test", slice(0, 12))):
        put(tmp_path / f"{name}.p", pickle.dumps({"features": COLOUR[rows], "labels": 10 * LABEL[rows]}))
    whole = raw.contents("gtsrb", tmp_path)
    assert_part(whole.parts["validation"], COLOUR[6:8], 10 * LABEL[6:8])
    assert len(whole.classes) == 43 and len(whole.parts["test"].label) == 12
    test = raw.contents("gtsrb/aloe", tmp_path).parts["test"]
    expected = np.sort(shuffle(np.arange(12), random_state=1)[:5])  # scikit-learn's, which the authors call
    np.testing.assert_array_equal(test.index, expected)
    np.testing.assert_array_equal(test.image, COLOUR[expected])
    put(tmp_path / "test.p", pickle.dumps({"features": COLOUR, "labels": LABEL + 43}))
    with pytest.raises(ValueError, match="must be below 43"):
        raw.contents("gtsrb", tmp_path)


def test_a_thousand_of_each_digit_are_the_first():
    label = np.tile([3, 0, 3], 1500)
    kept = svhn.thousand_of_each(label)
    np.testing.assert_array_equal(np.flatnonzero(kept == 3), np.flatnonzero(label == 3)[:1000])
    np.testing.assert_array_equal(np.flatnonzero(kept == 0), np.flatnonzero(label == 0)[:1000])
    assert (kept >= 0).sum() == 2000


def test_what_is_read_can_be_prepared_and_loaded(tmp_path):
    np.savez(tmp_path / "mine.npz", x_test=COLOUR, y_test=LABEL)
    store.write(raw.contents("mine", tmp_path), tmp_path / "out")
    split = load("mine", "test", data_dir=tmp_path / "out")
    assert_part(split, COLOUR, LABEL)


# --- what is refused ---


class Evil:
    """Unpickling this would make a folder."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_pickle_runs_nothing(tmp_path):
    put(
        tmp_path / "raw" / "test_batch",
        pickle.dumps({"data": planes(COLOUR), "labels": Evil(tmp_path / "made")}),
    )
    with pytest.raises(ValueError, match=r"asks for posix\.mkdir, only arrays are allowed"):
        raw.contents("mine", tmp_path / "raw")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "image, message",
    [
        (np.full((4, 8, 8, 1), 0.5, np.float32), "they lie in [0.5, 0.5], store (255 * x).round()"),
        (np.full((4, 8, 8, 1), 300.0, np.float32), "outside of 0 to 255"),
        (np.full((4, 8, 8, 1), np.nan, np.float32), "NaN or infinity"),
        (np.full((4, 8, 8, 1), 7, np.int64), "are int64, must be uint8"),
    ],
)
def test_images_that_are_not_bytes_are_named(tmp_path, image, message):
    np.savez(tmp_path / "train.npz", images=image, labels=np.arange(4))
    with pytest.raises(ValueError) as refused:
        raw.contents("mine", tmp_path)
    assert message in str(refused.value)


def test_objects_in_npz_run_nothing(tmp_path):
    (tmp_path / "raw").mkdir()
    np.savez(tmp_path / "raw" / "x.npz", image=np.asarray([Evil(tmp_path / "made")], object))
    with pytest.raises(ValueError, match="cannot be read as numbers"):
        raw.contents("mine", tmp_path / "raw")
    assert not (tmp_path / "made").exists()


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "holds no files"),
        ({"readme.txt": b"hello"}, "no raw files of a known layout"),
        ({"a-images-idx3-ubyte": idx(GREY)}, "its labels are missing, a-labels-idx1-ubyte"),
        (
            {"a-images-idx3-ubyte.gz": cut(gzip.compress(idx(GREY))), "a-labels-idx1-ubyte": idx(LABEL)},
            "damaged gzip",
        ),
        ({"a-images-idx3-ubyte.gz": idx(GREY), "a-labels-idx1-ubyte": idx(LABEL)}, "damaged gzip"),
        (
            {"a-images-idx3-ubyte": cut(idx(GREY)), "a-labels-idx1-ubyte": idx(LABEL)},
            "header says 12 x 28 x 28",
        ),
        ({"a-images-idx3-ubyte": b"", "a-labels-idx1-ubyte": idx(LABEL)}, "must be 000008"),
        ({"a-images-idx3-ubyte": b"<html>", "a-labels-idx1-ubyte": idx(LABEL)}, "must be 000008"),
        ({"test_batch": cut(pickle.dumps({"data": planes(COLOUR), "labels": [1]}))}, "not a CIFAR pickle"),
        ({"test_batch": pickle.dumps([1, 2])}, "not a CIFAR pickle"),
        ({"test_batch": pickle.dumps({"data": GREY, "labels": [1]})}, "rows of 3072 bytes"),
        ({"test_batch.bin": b"12345"}, "whole number of records of 3073"),
        ({"x.npz": b"PK\x03\x04broken"}, "cannot be read as numbers"),
        ({"test_32x32.mat": b"MATLAB"}, "cannot be read as a MATLAB file"),
        ({"x.npy": b""}, "cannot be read as numbers"),
        ({"labels.npz": b"PK\x03\x04broken", "test_00.png": coded(COLOUR[0])}, "cannot be read as numbers"),
        ({"a/1.png": cut(coded(GREY[0]))}, "damaged picture"),
        ({"a/1.png": b"not a picture"}, "damaged picture"),
        ({"1.png": coded(GREY[0])}, "lies in no class"),
        ({"a.zip": b"not a zip"}, "damaged zip"),
    ],
)
def test_damaged_or_strange_files_are_named_in_one_line(tmp_path, files, words):
    for name, content in files.items():
        put(tmp_path / name, content)
    with pytest.raises(ValueError, match=words) as raised:
        raw.contents("mine", tmp_path)
    assert "\n" not in str(raised.value)
    assert str(tmp_path) in str(raised.value) or "1.png" in str(raised.value)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="no such folder"):
        raw.contents("mine", tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (12, "12 test images found, must be 10,000"),
        (10_000, "SHA-256 of the test pixels is .*, must be 6d87418d"),
    ],
)
def test_a_known_set_must_be_itself(tmp_path, count, words):
    put(tmp_path / "t10k-images-idx3-ubyte", idx(np.zeros((count, 28, 28), np.uint8)))
    put(tmp_path / "t10k-labels-idx1-ubyte", idx(np.zeros(count, np.uint8)))
    with pytest.raises(ValueError, match=words):
        raw.contents("mnist", tmp_path)


def test_wrong_labels_of_a_known_set_are_noticed(tmp_path, monkeypatch):
    import hashlib

    digests = tuple(hashlib.sha256(a.tobytes()).hexdigest() for a in (GREY, LABEL))
    monkeypatch.setitem(KNOWN, "mine", Known(counts={"test": 12}, sha256={"test": digests}))
    put(tmp_path / "t10k-images-idx3-ubyte", idx(GREY))
    put(tmp_path / "t10k-labels-idx1-ubyte", idx(LABEL))
    assert raw.contents("mine", tmp_path).source == "raw files of mine, checksums verified"
    put(tmp_path / "t10k-labels-idx1-ubyte", idx(LABEL[::-1].copy()))
    with pytest.raises(ValueError, match="SHA-256 of the test labels"):
        raw.contents("mine", tmp_path)


def test_where_the_pixels_are_not_known_the_labels_are_checked(tmp_path, monkeypatch):
    import hashlib

    known = Known(sha256={"test": (None, hashlib.sha256(LABEL.tobytes()).hexdigest())})
    monkeypatch.setitem(KNOWN, "mine", known)
    np.savez(tmp_path / "mine.npz", x_test=GREY, y_test=LABEL)
    assert raw.contents("mine", tmp_path).source == "raw files of mine"
    np.savez(tmp_path / "mine.npz", x_test=GREY, y_test=LABEL[::-1])
    with pytest.raises(ValueError, match="SHA-256 of the test labels"):
        raw.contents("mine", tmp_path)
