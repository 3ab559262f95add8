"""A made-up ImageNet of small JPEGs of many sizes: stored as records, decoded by workers, own rows only, resumed."""

import io
import itertools
import json
import math
import shutil
import tracemalloc
import zlib

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from PIL import Image
from scipy import stats

from robustjax import data
from robustjax.data import feeding, order, random_window, sources, store_pictures
from robustjax.data.lazy_pictures import LazyPictures
from robustjax.data.random_window import Windows

CLASSES = ("n01440764", "n01443537", "n02102040")
SIDE = 16


def jpeg(number):
    """Make a picture of a size of its own: a gradient that says which it is."""
    rng = np.random.default_rng(number)
    width, height = (int(v) for v in rng.integers(20, 60, 2))
    small = Image.fromarray(rng.integers(0, 256, (3, 4, 3)).astype(np.uint8))
    out = io.BytesIO()
    small.resize((width, height), Image.Resampling.BILINEAR).save(out, "JPEG", quality=90)
    return out.getvalue()


FILES = {
    f"{part}/{kind}/{kind}_{number}.JPEG": jpeg(1000 * (part == "val") + 100 * k + number)
    for part, many in (("train", 40), ("val", 5))
    for k, kind in enumerate(CLASSES)
    for number in range(many)
}


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """The set prepared under the name of `made`."""
    root = tmp_path_factory.mktemp("raw")
    for name, content in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    shelf = tmp_path_factory.mktemp("shelf")
    written = store_pictures.write("made", root, shelf)
    assert written.counts == {"train": 120, "validation": 15}
    assert written.bytes == sum(map(len, FILES.values()))
    return shelf


def load(shelf, split="train", **more):
    return data.load("made", split, data_dir=shelf, size=SIDE, streamed=True, **more)


def path_of(split, row):
    """The raw file of a row: files in the order of their paths are numbered from 0, validation ones are left out."""
    names = sorted(name for name in FILES if name.startswith("train"))
    return names[split.index[row]]


def test_files_are_kept_as_they_are_and_checked(shelf):
    split = load(shelf)
    assert isinstance(split.image, LazyPictures) and split.info.classes == CLASSES
    assert not order.held_out(split.index).any()
    rows = np.array([7, 0, 55])
    for row, content in zip(rows, split.image.read(rows)):
        assert content == FILES[path_of(split, row)]
        assert CLASSES[split.label[row]] == path_of(split, row).split("/")[1]
    sums = split.image.read.checksums(rows)
    assert sums.tolist() == [zlib.crc32(FILES[path_of(split, row)]) for row in rows]
    assert split.info.sha256.startswith("CRC-32s:") and split.info.sha256 != load(shelf, "test").info.sha256
    assert sources.counts(sources.find("made", shelf)) == {"train": 120, "validation": 15}


def test_pixels_are_those_of_a_set_decoded_at_once(shelf):
    split, whole = load(shelf), data.load("made", "train", data_dir=shelf, size=SIDE, streamed=False)
    np.testing.assert_array_equal(np.asarray(split.image), whole.image)
    np.testing.assert_array_equal(split.label, whole.label)
    np.testing.assert_array_equal(split.index, whole.index)
    # Small sets stay arrays, and large ones do once they lie decoded on disk.
    assert not isinstance(data.load("made", "test", data_dir=shelf, size=SIDE).image, LazyPictures)
    settings = {"batch_size": 50, "seed": 3, "start": 1}
    for ours, theirs in zip(data.stream(split, **settings), data.stream(whole, **settings), strict=False):
        np.testing.assert_array_equal(ours.image, theirs.image)
        np.testing.assert_array_equal(ours.label, theirs.label)
        break


def test_large_sets_are_streamed_without_being_asked(shelf, monkeypatch):
    pixels = 3 * 8 * 8 * 15
    monkeypatch.setattr(sources, "STREAMED", pixels)
    assert not isinstance(data.load("made", "test", data_dir=shelf, size=8).image, LazyPictures)
    monkeypatch.setattr(sources, "STREAMED", pixels - 1)
    assert isinstance(data.load("made", "test", data_dir=shelf, size=9).image, LazyPictures)
    assert not isinstance(
        data.load("made", "test", data_dir=shelf, size=8).image, LazyPictures
    )  # decoded above


def pieces(split, own, *, start=0, windows=None, batch_size=40, seed=5):
    rows = feeding.ShuffledRows(len(split.label), batch_size, seed=seed, lane=0)
    return feeding.Pieces(
        split.image, rows, batch_size=batch_size, own=own, start=start, windows=windows, seed=seed, lane=0
    )


def by_hand(split, step, place, *, batch_size=40, seed=5):
    """What place `place` of batch `step` must hold, by Pillow on the raw file."""
    position = int(step * batch_size + place)
    row = order.permutation(len(split.label), seed=seed, epoch=position // len(split.label))[
        position % len(split.label)
    ]
    picture = Image.open(io.BytesIO(FILES[path_of(split, row)]))
    draws = random_window.draws(np.array([position]), seed=seed)[0]
    box = Windows().box(*picture.size, draws)
    return np.asarray(picture.crop(box).resize((SIDE, SIDE), Image.Resampling.BILINEAR)), row


def test_a_process_decodes_its_own_rows_only(shelf, monkeypatch):
    split = load(shelf)
    read, asked = split.image.read, []
    monkeypatch.setattr(split.image, "read", lambda rows: asked.extend(rows.tolist()) or read(rows))
    halves = [np.arange(20), np.arange(20, 40)]
    both = []
    for own in halves:
        asked.clear()
        feed = feeding.fed(pieces(split, own, windows=Windows()), 0)
        both.append(list(itertools.islice(feed, 4)))
        want = [by_hand(split, step, place) for step in range(4) for place in own]
        assert asked == [row for _, row in want]
        np.testing.assert_array_equal(np.concatenate(both[-1]), np.stack([image for image, _ in want]))
    # Together they are the batches of one process.
    whole = list(itertools.islice(feeding.fed(pieces(split, np.arange(40), windows=Windows()), 0), 4))
    np.testing.assert_array_equal(np.concatenate(both, axis=1), whole)


def test_own_places_are_those_of_the_devices_of_this_process():
    mesh = Mesh(np.asarray(jax.devices()[:4]), ("data",))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    np.testing.assert_array_equal(feeding.own_places(8, sharding), np.arange(8))
    np.testing.assert_array_equal(feeding.own_places(8, None), np.arange(8))

    class Second(NamedSharding):
        """Of two processes the second: its devices hold the second half."""

        def addressable_devices_indices_map(self, shape):
            return {device: (slice(4 + 2 * i, 6 + 2 * i),) for i, device in enumerate("ab")}

    np.testing.assert_array_equal(feeding.own_places(8, Second(mesh, PartitionSpec("data"))), [4, 5, 6, 7])
    local = np.arange(8, dtype=np.uint8).reshape(8, 1, 1, 1)
    whole = feeding.assembled(local, np.arange(8), 8, sharding)
    np.testing.assert_array_equal(whole, local)
    assert whole.sharding == sharding


def test_resumed_with_another_number_of_workers_it_is_the_same_to_the_bit(shelf):
    pytest.importorskip("grain")
    split = load(shelf)
    settings = {"batch_size": 40, "seed": 5, "windows": Windows()}
    want = list(itertools.islice(data.stream(split, **settings), 6))
    again = list(itertools.islice(data.stream(split, **settings), 3))
    again += itertools.islice(data.stream(split, **settings, start=3, workers=1), 3)
    for a, b in zip(want, again, strict=True):
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.label, b.label)
    image, row = by_hand(split, 5, 17)
    np.testing.assert_array_equal(
        np.asarray(again[5].image)[17], (image / np.float32(255)).astype(np.float32)
    )
    assert again[5].label[17] == split.label[row]


@pytest.mark.slow
def test_any_number_of_workers_reads_the_same(shelf):
    pytest.importorskip("grain")
    split = load(shelf)
    settings = {"batch_size": 100, "seed": 1, "windows": Windows()}
    want = [np.asarray(batch.image) for batch in itertools.islice(data.stream(split, **settings), 4)]
    for workers in (2, 3):
        found = itertools.islice(data.stream(split, **settings, workers=workers), 4)
        np.testing.assert_array_equal([np.asarray(batch.image) for batch in found], want)


@pytest.mark.slow
def test_a_damaged_record_is_named_by_workers(shelf, tmp_path):
    pytest.importorskip("grain")
    name = "train/n02102040/n02102040_3.JPEG"
    damage(shelf, tmp_path, FILES[name])
    split = load(tmp_path)
    with pytest.raises(ValueError, match=r"train record \d+ \(n02102040/n02102040_3.JPEG\): damaged"):
        next(data.stream(split, batch_size=len(split.label), seed=0, windows=Windows(), workers=2))


def damage(shelf, tmp_path, content):
    """Copy the set, and change a byte in the middle of one picture."""
    shutil.copytree(shelf / "made", tmp_path / "made")
    (shard,) = (tmp_path / "made").rglob("made-train.array_record*")
    stored = bytearray(shard.read_bytes())
    at = bytes(stored).find(content)
    assert at > 0
    stored[at + len(content) // 2] ^= 1
    shard.write_bytes(bytes(stored))


def test_a_damaged_record_is_named(shelf, tmp_path):
    name = "train/n01443537/n01443537_7.JPEG"
    damage(shelf, tmp_path, FILES[name])
    split = load(tmp_path)
    (row,) = (i for i in range(len(split.label)) if path_of(split, i) == name)
    good = np.flatnonzero(np.arange(len(split.label)) != row)
    assert len(split.image.read(good)) == len(good)
    with pytest.raises(
        ValueError, match=r"train record \d+ \(n01443537/n01443537_7.JPEG\): damaged"
    ) as error:
        next(data.stream(split, batch_size=len(split.label), seed=0, windows=Windows()))
    assert "\n" not in str(error.value)


def test_a_wrong_checksum_is_named(shelf):
    """Where the file reads well, but is not what was prepared."""
    split = load(shelf)
    records = split.image.read.read
    number = int(records.order[3])

    class Other:
        def __getitems__(self, numbers):
            return [{"image": b"else", "crc32": 1} for _ in numbers]

    records.__dict__["_source"] = Other()
    with pytest.raises(
        ValueError, match=f"train record {number} .*CRC-32 is {zlib.crc32(b'else'):08x}, must be"
    ):
        records(np.array([3]))


def test_memory_is_bounded(shelf):
    split = load(shelf)
    peaks = []
    for steps in (1, 4):
        feed = feeding.fed(pieces(split, np.arange(40), windows=Windows()), 0)
        next(feed)
        tracemalloc.start()
        for _ in range(steps):
            next(feed)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        feed.close()
    batch = 40 * SIDE * SIDE * 3
    assert max(peaks) < peaks[0] + 2 * batch + 2**19  # what a batch takes, however many there were


# --- windows ---


def test_windows_have_the_distribution_of_torchvision():
    """Of a large square; closed forms. A draw fits if share * ratio and share / ratio are at most 1."""
    side, low = 4000, math.log(4 / 3)
    boxes = np.array(
        [Windows().box(side, side, d) for d in random_window.draws(np.arange(5000), seed=1)], float
    )
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    share = width * height / side**2

    def below(s):
        # E[min(s, exp(-|l|)) - 0.08] / E[exp(-|l|) - 0.08] for l uniform in (-low, low).
        s = np.asarray(s, float)
        cut = np.clip(-np.log(s), 0, low)  # |l| up to here: exp(-|l|) is above s
        mean = (s * cut + np.exp(-cut) - np.exp(-low)) / low
        return (mean - 0.08) / ((1 - np.exp(-low)) / low - 0.08)

    assert stats.kstest(share, below).pvalue > 1e-3
    # Small windows always fit: there the logarithm of the ratio is uniform.
    small = share < 0.7
    ratio = np.log(width / height)[small]
    assert stats.kstest(ratio, stats.uniform(-low, 2 * low).cdf).pvalue > 1e-3
    for corner, length in ((boxes[:, 0], width), (boxes[:, 1], height)):
        room = side - length
        far = room > 400
        place = (corner[far] + 0.5) / (room[far] + 1)
        assert stats.kstest(place, stats.uniform.cdf).pvalue > 1e-3
    assert boxes.min() >= 0 and boxes.max() <= side


@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((1000, 10), (493, 0, 506, 10)),  # round(10 * 4 / 3) = 13 wide, (1000 - 13) // 2 = 493
        ((9, 600), (0, 294, 9, 306)),  # round(9 / (3 / 4)) = 12 high
        ((11, 10), (0, 0, 11, 10)),
    ],
)
def test_where_no_draw_fits_the_middle_is_taken(size, box):
    whole = Windows(area=(1.0, 1.0), ratio=(3 / 4, 4 / 3))
    draws = np.full(22, 0.999)  # the widest shape, and all of the area: too wide
    assert whole.box(*size, draws) == box


def test_a_window_by_hand():
    # 0.25 of 80 x 50 is 1,000 pixels; ratio 1: round(sqrt(1000)) = 32; places 0.5 * 49 and 0.25 * 19, cut off.
    draws = np.concatenate([np.full(10, (0.25 - 0.08) / 0.92), np.full(10, 0.5), [0.5, 0.25]])
    assert Windows().box(80, 50, draws) == (24, 4, 56, 36)


@pytest.mark.oracle
def test_windows_beside_torchvision():
    torch, transforms = pytest.importorskip("torch"), pytest.importorskip("torchvision.transforms")
    torch.manual_seed(0)
    image = torch.zeros(3, 120, 300)
    found = np.array(
        [transforms.RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(4000)]
    )
    boxes = np.array([Windows().box(300, 120, d) for d in random_window.draws(np.arange(4000), seed=2)])
    ours = np.stack([boxes[:, 1], boxes[:, 0], boxes[:, 3] - boxes[:, 1], boxes[:, 2] - boxes[:, 0]], axis=1)
    for a, b in zip(ours.T, found.T):
        assert stats.ks_2samp(a, b).pvalue > 1e-3
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (120, 300, 3)).astype(np.uint8))
    top, left, height, width = found[0].tolist()
    want = transforms.functional.resized_crop(picture, top, left, height, width, [32, 32])
    exact = Windows()
    object.__setattr__(exact, "box", lambda *_: (left, top, left + width, top + height))
    np.testing.assert_array_equal(random_window.cut(picture, exact, np.zeros(22), side=32), np.asarray(want))


def test_draws_depend_on_seed_and_position_alone():
    one = random_window.draws(np.arange(100), seed=1)
    np.testing.assert_array_equal(one[30:40], random_window.draws(np.arange(30, 40), seed=1))
    assert (one != random_window.draws(np.arange(100), seed=2)).all()
    assert (one != random_window.draws(np.arange(100), seed=1, lane=1)).all()
    assert stats.kstest(one.ravel(), stats.uniform.cdf).pvalue > 1e-3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"area": (0.0, 1.0)}, "area is"),
        ({"area": (0.5, 0.4)}, "must rise"),
        ({"ratio": (0.0, 1.0)}, "ratio"),
        ({"ratio": (1.0, math.inf)}, "ratio"),
    ],
)
def test_windows_that_cannot_be_drawn(settings, message):
    with pytest.raises(ValueError, match=message):
        Windows(**settings)


def test_what_goes_wrong_is_said(shelf, tmp_path):
    (tmp_path / "raw/a").mkdir(parents=True)
    (tmp_path / "raw/a/x.jpg").write_bytes(FILES[min(FILES)][:300])
    with pytest.raises(ValueError, match=r"a/x.jpg: damaged picture"):
        store_pictures.write("bad", tmp_path / "raw", tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())
    with pytest.raises(ValueError, match="name is 'a-b'"):
        store_pictures.write("a-b", tmp_path / "raw", tmp_path / "out")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ValueError, match="holds no pictures"):
        store_pictures.write("bad", tmp_path / "nothing", tmp_path / "out")
    with pytest.raises(ValueError, match="must be a size"):
        data.load("made", "train", data_dir=shelf, streamed=True)
    small = data.load("made", "test", data_dir=shelf, size=8, streamed=False)
    with pytest.raises(ValueError, match="lie in memory"):
        data.stream(small, batch_size=2, seed=0, windows=Windows())
    with pytest.raises(ValueError, match="workers is -1"):
        data.stream(small, batch_size=2, seed=0, workers=-1)


def test_state_says_which_batch_is_next(shelf):
    split = load(shelf)
    state = data.reading_state(split, batch_size=40, seed=5, windows=Windows())
    told = json.loads(json.dumps(state(7)))
    assert told == state(7) and told["next batch"] == 7 and told["SHA-256"] == split.info.sha256
    other = data.reading_state(split, batch_size=40, seed=5)
    assert other(7) != told and other(7)["windows"] is None
