"""Batches: exact floats and resuming, every example once an epoch, the same on any devices and processes."""

import dataclasses
import itertools
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from robustjax import data
from robustjax.data import augment, batches, ood_images
from robustjax.data.sources import Info, Split, of_arrays


def split_of(count, shape=(4, 5, 3), classes=7, seed=0):
    """Make a split whose labels are the row numbers modulo the classes."""
    image = np.random.default_rng(seed).integers(0, 256, (count, *shape), np.uint8)
    label = (np.arange(count) % classes).astype(np.int32)
    info = Info("made", "train", tuple(map(str, range(classes))), count, (), "", "", "")
    return Split(image, label, np.arange(count), info)


def taken(stream, count):
    return list(itertools.islice(stream, count))


def rows_of(split, batch):
    """Find the rows that a batch holds by their pixels."""
    table = {image.tobytes(): i for i, image in enumerate(split.image)}
    return [table[np.round(np.asarray(x) * 255).astype(np.uint8).tobytes()] for x in batch.image]


def mesh_sharding(devices):
    mesh = jax.make_mesh((devices,), ("data",), devices=jax.devices()[:devices], axis_types=(AxisType.Auto,))
    return NamedSharding(mesh, P("data"))


def test_every_byte_becomes_what_numpy_makes_of_it():
    every = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    want = every.astype(np.float32) / np.float32(255)
    np.testing.assert_array_equal(batches.to_float(jnp.asarray(every)), want)
    np.testing.assert_array_equal(jax.jit(batches.to_float)(every), want)


@pytest.mark.parametrize("resident", [True, False])
def test_stream_yields_float_images_with_their_labels(resident):
    split = split_of(30)
    for batch in taken(batches.stream(split, batch_size=8, seed=1, resident=resident), 5):
        rows = rows_of(split, batch)
        assert batch.image.dtype == jnp.float32 and batch.label.dtype == jnp.int32
        np.testing.assert_array_equal(batch.image, split.image[rows].astype(np.float32) / np.float32(255))
        np.testing.assert_array_equal(batch.label, split.label[rows])


@settings(max_examples=10, deadline=None)
@given(count=st.integers(1, 25), batch_size=st.integers(1, 12), seed=st.integers(0, 2**40))
def test_every_example_once_an_epoch(count, batch_size, seed):
    split = split_of(count, shape=(3, 3, 1), classes=count)
    seen = np.concatenate(
        [b.label for b in taken(batches.stream(split, batch_size=batch_size, seed=seed), 3 * count)]
    )
    for epoch in seen[: len(seen) // count * count].reshape(-1, count):
        np.testing.assert_array_equal(np.sort(epoch), np.arange(count))


STEPS = augment.chain(augment.crop(1), augment.flip(), augment.cutout(2))


@settings(max_examples=10, deadline=None)
@given(start=st.integers(0, 12), seed=st.integers(0, 3), resident=st.booleans())
def test_resuming_anywhere_gives_the_same_batches(start, seed, resident):
    split = split_of(10)
    whole = taken(batches.stream(split, batch_size=4, seed=seed, augment=STEPS), start + 3)
    rest = batches.stream(split, batch_size=4, seed=seed, augment=STEPS, start=start, resident=resident)
    for want, have in zip(whole[start:], taken(rest, 3), strict=True):
        np.testing.assert_array_equal(want.image, have.image)
        np.testing.assert_array_equal(want.label, have.label)


def test_augmentation_differs_between_steps_examples_and_seeds():
    split = split_of(1, shape=(1, 8, 1))
    noise = lambda key, x: ood_images.uniform(key, x.shape)
    drawn = [
        image.tobytes()
        for seed in (0, 1)
        for batch in taken(batches.stream(split, batch_size=3, seed=seed, augment=noise), 4)
        for image in np.asarray(batch.image)
    ]
    assert len(set(drawn)) == 2 * 4 * 3


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("devices", [2, 8])
def test_sharded_stream_is_the_same(devices, resident):
    split, steps = split_of(40), augment.chain(augment.crop(1, fill=(0.1, 0.2, 0.3)), augment.flip())
    plain = batches.stream(split, batch_size=16, seed=5, augment=steps)
    sharding = mesh_sharding(devices)
    spread = batches.stream(split, batch_size=16, seed=5, augment=steps, sharding=sharding, resident=resident)
    for want, have in zip(taken(plain, 4), taken(spread, 4), strict=True):
        assert have.image.sharding.is_equivalent_to(sharding, 4) and have.label.sharding.is_equivalent_to(
            sharding, 1
        )
        np.testing.assert_array_equal(want.image, have.image)
        np.testing.assert_array_equal(want.label, have.label)


def test_pairs_have_orders_of_their_own():
    inside, outside = split_of(24, seed=1), split_of(10, seed=2)
    made = taken(batches.pairs(inside, outside, batch_size=6, ood_batch_size=5, seed=0), 4)
    alone = taken(batches.stream(inside, batch_size=6, seed=0), 4)
    for pair, batch in zip(made, alone, strict=True):
        np.testing.assert_array_equal(pair.id.image, batch.image)
    for epoch in (made[:2], made[2:]):
        rows = [r for pair in epoch for r in rows_of(outside, type(batch)(pair.ood, None))]
        assert sorted(rows) == list(range(10))
    same = taken(batches.pairs(inside, inside, batch_size=6, seed=0), 1)[0]
    assert not np.array_equal(same.id.image, same.ood)


def test_ood_images_can_be_made_by_augmentation():
    split = split_of(8)
    pair = next(batches.pairs(split, split, batch_size=4, seed=0, ood_augment=ood_images.permuted))
    plain = next(batches.pairs(split, split, batch_size=4, seed=0))
    np.testing.assert_array_equal(pair.id.image, plain.id.image)
    assert not np.array_equal(pair.ood, plain.ood)
    np.testing.assert_array_equal(np.sort(np.ravel(pair.ood[0])), np.sort(np.ravel(plain.ood[0])))


@pytest.mark.parametrize(("count", "batch_size", "devices"), [(10, 4, 1), (8, 4, 2), (3, 8, 8), (1, 1, 1)])
def test_evaluation_shows_every_example_once_and_in_order(count, batch_size, devices):
    split = split_of(count)
    sharding = None if devices == 1 else mesh_sharding(devices)
    images, labels = [], []
    for batch, mask in batches.evaluation(split, batch_size=batch_size, sharding=sharding):
        assert batch.image.shape[0] == batch_size == mask.shape[0] and mask.dtype == bool
        images.append(np.asarray(batch.image)[np.asarray(mask)])
        labels.append(np.asarray(batch.label)[np.asarray(mask)])
    np.testing.assert_array_equal(np.concatenate(images), split.image.astype(np.float32) / np.float32(255))
    np.testing.assert_array_equal(np.concatenate(labels), split.label)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda s: batches.stream(s, batch_size=0, seed=0), "batch_size is 0"),
        (lambda s: batches.stream(s, batch_size=4, seed=0, start=-1), "start is -1"),
        (lambda s: batches.stream(s, batch_size=4, seed=0, sharding=mesh_sharding(8)), "must divide over"),
        (lambda s: batches.evaluation(s, batch_size=-2), "batch_size is -2"),
        (lambda s: batches.pairs(s, split_of(4, (2, 2, 1)), batch_size=4, seed=0), "must be equal"),
        (lambda s: batches.pairs(s, s, batch_size=4, ood_batch_size=0, seed=0), "batch_size is 0"),
        (lambda s: batches.stream(split_of(0), batch_size=4, seed=0), "is empty"),
    ],
)
def test_wrong_settings_are_refused_at_once(call, words):
    with pytest.raises(ValueError, match=words):
        call(split_of(10))


PROCESS = """
import sys
import jax, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
number, port, out = int(sys.argv[1]), sys.argv[2], sys.argv[3]
jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=number)
from robustjax.data import augment, batches
from robustjax.data.sources import Info, Split, of_arrays
image = np.random.default_rng(0).integers(0, 256, (20, 4, 5, 3), np.uint8)
split = Split(image, np.arange(20, dtype=np.int32), np.arange(20), Info("", "", (), 20, (), "", "", ""))
mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
sharding = NamedSharding(mesh, P("data"))
steps = augment.chain(augment.crop(1), augment.flip())
for resident in (True, False):
    stream = batches.stream(split, batch_size=8, seed=3, augment=steps, sharding=sharding, resident=resident)
    mine = []
    for _ in range(4):
        batch = next(stream)
        assert batch.image.shape == (8, 4, 5, 3)
        shards = sorted(batch.image.addressable_shards, key=lambda s: s.index[0].start)
        mine.append(np.concatenate([s.data for s in shards]))
    assert sum(m.shape == (8,) for _, m in batches.evaluation(split, batch_size=8, sharding=sharding)) == 3
    np.save(f"{out}/{number}-{resident}.npy", np.stack(mine))
"""


@pytest.mark.slow
def test_two_processes_make_the_batches_of_one(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    env = dict(os.environ, XLA_FLAGS="--xla_force_host_platform_device_count=2", JAX_PLATFORMS="cpu")
    env["PYTHONPATH"] = str(Path(__file__).parents[2])
    running = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(n), str(port), str(tmp_path)],
            env=env,
            stderr=subprocess.PIPE,
            text=True,
        )
        for n in (0, 1)
    ]
    for process in running:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    split = split_of(20, classes=20)
    steps = augment.chain(augment.crop(1), augment.flip())
    alone = taken(batches.stream(split, batch_size=8, seed=3, augment=steps), 4)
    for resident in (True, False):
        both = np.concatenate([np.load(tmp_path / f"{n}-{resident}.npy") for n in (0, 1)], axis=1)
        np.testing.assert_array_equal(both, np.stack([b.image for b in alone]))


@pytest.mark.slow
@pytest.mark.parametrize("outside, tells", [(8, False), (4, True)])
def test_the_same_images_as_id_and_as_ood_cannot_be_told_apart(outside, tells):
    """A discriminator on statistics of the pixels: the same chain on both sides leaves it at chance."""
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    image = rng.integers(40, 256, (2000, 16, 16, 1), np.uint8)
    split = of_arrays(image, np.zeros(2000, int), name="same")
    chains = [augment.chain(augment.crop(2), augment.flip(), augment.cutout(size)) for size in (8, outside)]
    stream = batches.pairs(split, split, batch_size=1000, seed=0, augment=chains[0], ood_augment=chains[1])
    parts = list(itertools.islice(stream, 12))
    sides = [
        np.concatenate([np.asarray(x) for x in side]) for side in zip(*((p.id.image, p.ood) for p in parts))
    ]
    black = [(x == 0).reshape(len(x), -1) for x in sides]
    features = np.concatenate(
        [np.c_[b.mean(1), b.sum(1) ** 2 / 1e4, b[:, ::17], x.mean((1, 2, 3))] for b, x in zip(black, sides)]
    )
    side = np.repeat([0, 1], len(sides[0]))
    train = np.arange(len(side)) % 2 == 0
    judge = LogisticRegression(max_iter=500).fit(features[train], side[train])
    accuracy = judge.score(features[~train], side[~train])
    assert accuracy > 0.7 if tells else accuracy < 0.52


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"label": np.array([0, 1, -1, 1], np.int32)}, "labels of mine run from -1 to 1, must be in 0..1"),
        (
            {"label": np.array([1, 2, 1, 2], np.int32)},
            "labels of mine run from 1 to 2, must be in 0..1; of labels from 1 ",
        ),
        ({"label": np.array([0, 1, 0.5, 1])}, "labels of mine are float64, must be whole numbers from 0"),
        (
            {"image": np.zeros((4, 2, 2, 1), np.float32)},
            "are float32[4, 2, 2, 1] with 4 labels, must be uint8[n h w c]",
        ),
        ({"image": np.zeros((3, 2, 2, 1), np.uint8)}, "are uint8[3, 2, 2, 1] with 4 labels"),
    ],
)
def test_a_split_made_by_hand_is_checked_where_it_is_opened(change, says):
    made = data.of_arrays(np.zeros((4, 2, 2, 1), np.uint8), [0, 1, 0, 1], name="mine")
    wrong = dataclasses.replace(made, **change)
    for entrance in (
        lambda: data.stream(wrong, batch_size=2, seed=0),
        lambda: data.pairs(wrong, made, batch_size=2, seed=0),
        lambda: data.pairs(made, wrong, batch_size=2, seed=0),
        lambda: data.evaluation(wrong, batch_size=2),
    ):
        with pytest.raises(ValueError, match=re.escape(says)) as error:
            entrance()
        assert "\n" not in str(error.value)
