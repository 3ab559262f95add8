"""Files of tensors: what formats say, byte by byte; nothing runs; whatever is damaged ends in one line."""

import collections
import datetime
import decimal
import enum
import fractions
import functools
import io
import json
import math
import os
import pathlib
import pickle
import pickletools
import re
import struct
import types
import uuid
import zipfile

import numpy as np
import pytest

from robustjax.models import pickles, tensorfiles

HERE = pathlib.Path(__file__).parent / "checkpoints"
FORMATS = ["zip.pt", "legacy.pt"]  # of the same object, by torch.save of PyTorch 2.13


def safetensors(path, entries, body=b""):
    """Write the format by hand: a length, a header in JSON, the numbers."""
    header = json.dumps(entries).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + body)
    return path


def one_line(call, *words):
    with pytest.raises(ValueError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


def test_safetensors_byte_by_byte(tmp_path):
    body = (
        struct.pack("<4f", 1.5, -2.0, 0.0, 3.25)
        + struct.pack("<2e", 0.5, -1.0)
        + bytes([0x80, 0x3F, 0x40, 0xC0])  # bfloat16: 1 and -3, the upper halves of 3f800000 and c0400000
        + struct.pack("<q", -(2**40))
        + b"\1"
    )
    entries = {
        "__metadata__": {"format": "pt"},
        "a.single": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
        "a.half": {"dtype": "F16", "shape": [2], "data_offsets": [16, 20]},
        "a.brain": {"dtype": "BF16", "shape": [2, 1], "data_offsets": [20, 24]},
        "a.long": {"dtype": "I64", "shape": [], "data_offsets": [24, 32]},
        "a.flag": {"dtype": "BOOL", "shape": [1], "data_offsets": [32, 33]},
        "a.none": {"dtype": "F32", "shape": [0, 3], "data_offsets": [33, 33]},
    }
    found = tensorfiles.state_dict(safetensors(tmp_path / "x.safetensors", entries, body))
    assert list(found) == list(entries)[1:]
    expected = {
        "a.single": np.array([[1.5, -2.0], [0.0, 3.25]], np.float32),
        "a.half": np.array([0.5, -1.0], np.float16),
        "a.brain": np.array([[1.0], [-3.0]], np.float32),
        "a.long": np.array(-(2**40)),
        "a.flag": np.array([True]),
        "a.none": np.empty((0, 3), np.float32),
    }
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        np.testing.assert_array_equal(found[name], value)
    with pytest.raises(ValueError, match="read-only"):
        found["a.single"][0, 0] = 1


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"dtype": "F8_E5M2", "shape": [8], "data_offsets": [0, 8]}, ["a.w", "F8_E5M2", "F32"]),
        ({"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}, ["damaged", "not fully covered"]),
        ({"dtype": "F32", "shape": [2], "data_offsets": [4, 0]}, ["damaged"]),
        ({"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}, ["damaged", "header"]),
        ({"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}, ["damaged", "shape"]),
        ({"dtype": "F32", "shape": [-1, -2], "data_offsets": [0, 8]}, ["damaged", "-1"]),
        ({"dtype": "F32", "shape": ["2"], "data_offsets": [0, 8]}, ["damaged", "header"]),
        ({"dtype": "F32", "shape": 2, "data_offsets": [0, 8]}, ["damaged", "header"]),
        ({"shape": [2], "data_offsets": [0, 8]}, ["damaged", "header"]),
        ([], ["damaged", "header"]),
    ],
)
def test_safetensors_that_lie(tmp_path, entry, words):
    path = safetensors(tmp_path / "x.safetensors", {"a.w": entry}, bytes(8))
    one_line(lambda: tensorfiles.state_dict(path), str(path), *words)


def test_safetensors_names_that_share_a_tensor(tmp_path):
    """The format has each tensor once; the other names of a shared one are in its metadata, as torch writes them."""
    entries = {
        "__metadata__": {"format": "pt", "b.w": "a.w"},
        "a.w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
    }
    found = tensorfiles.state_dict(
        safetensors(tmp_path / "x.safetensors", entries, np.arange(2, dtype="f4").tobytes())
    )
    assert sorted(found) == ["a.w", "b.w"]
    np.testing.assert_array_equal(found["b.w"], found["a.w"])


@pytest.mark.parametrize("name", FORMATS)
def test_what_torch_wrote(name):
    found = tensorfiles.state_dict(HERE / name)
    expected = {
        "module.a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "module.a.half": np.arange(4).astype(np.float16) / 8,
        "module.a.brain": np.arange(6, dtype=np.float32) - 2.5,
        "module.a.turned": np.arange(12, dtype=np.float32).reshape(3, 4).T[1:, ::2],
        "module.a.num_batches_tracked": np.array(7),
        "module.a.count": np.array([2**40, -1]),
        "module.a.parameter": np.full(2, 0.25, np.float32),
    }
    assert list(found) == list(expected)
    for key, value in expected.items():
        assert found[key].dtype == value.dtype
        np.testing.assert_array_equal(found[key], value)


def pickled(name):
    """The pickle of the saved object within a file."""
    if name == "zip.pt":
        with zipfile.ZipFile(HERE / name) as archive:
            return archive.read("zip/data.pkl")
    stream = io.BytesIO((HERE / name).read_bytes())
    for _ in range(3):
        list(pickletools.genops(stream))
    return stream.read()


@pytest.mark.parametrize("name", FORMATS)
def test_other_objects_are_recorded_not_built(name):
    found = pickles.read(io.BytesIO(pickled(name)))
    settings = found["args"]
    assert isinstance(settings, pickles.StandIn)
    assert str(settings.kind) == "argparse.Namespace"
    assert settings.state["lr"] == 0.1
    assert str(settings.state["device"].kind) == "torch.device"
    assert settings.state["device"].arguments == ("cpu",)
    assert found["epoch"] == 3
    assert found["optimizer"]["param_groups"] == [{"lr": 0.1, "params": [0]}]


# --- nothing runs -------------------------------------------------------------------------------------


class Calls:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def archive(path, data):
    """Write the zip format around a pickle."""
    with zipfile.ZipFile(path, "w") as target:
        target.writestr("archive/data.pkl", data)
        target.writestr("archive/version", "3\n")
    return path


def old(path, data):
    """Write the older format around a pickle."""
    head = (tensorfiles.MAGIC, 1001, {"little_endian": True})
    path.write_bytes(b"".join(pickle.dumps(value, 2) for value in head) + data + pickle.dumps([], 2))
    return path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("write", [archive, old])
@pytest.mark.parametrize("function", [os.system, eval, exec, open])
def test_code_is_refused_by_name_and_does_not_run(tmp_path, function, write, protocol):
    marker = tmp_path / "marker"
    words = {os.system: f"touch {marker}", open: str(marker)}.get(function, f"open({str(marker)!r}, 'w')")
    arguments = (words, "w") if function is open else (words,)
    tensor = {"state_dict": {}, "extra": [Calls(function, *arguments)]}
    path = write(tmp_path / "x.pt", pickle.dumps(tensor, protocol))
    with pytest.raises(ValueError) as caught:
        tensorfiles.state_dict(path)
    message = str(caught.value)
    # Early protocols write names as Python 2 had them.
    assert f"{function.__module__}.{function.__name__}, which is refused" in message.replace(
        "__builtin__", "builtins"
    )
    assert "\n" not in message
    assert not marker.exists()


class Phase(enum.Enum):
    TRAIN = 1


SETTINGS = {
    "partial": functools.partial(max, 3, key=abs),
    "enum": Phase.TRAIN,
    "date": datetime.datetime(2020, 1, 2, tzinfo=datetime.UTC),
    "length": datetime.timedelta(3),
    "slice": slice(1, 5, 2),
    "range": range(4),
    "decimal": decimal.Decimal("0.1"),
    "fraction": fractions.Fraction(1, 3),
    "namespace": types.SimpleNamespace(lr=0.1),
    "pattern": re.compile("conv[0-9]+"),
    "complex": 1 + 2j,
    "uuid": uuid.UUID(int=3),
    "bound": "abc".upper,
    "iterator": iter([1, 2]),
    "factory": collections.defaultdict(functools.partial(int, 3), a=1),
    "chained": collections.ChainMap({"a": 1}),
    "path": pathlib.PurePosixPath("a/b"),
    Phase.TRAIN: "a key",
}


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("write", [archive, old])
def test_settings_of_any_class_beside_the_weights_are_passed_over(tmp_path, write, protocol):
    content = {"state_dict": {}, "settings": SETTINGS, "list": list(SETTINGS.values())}
    path = write(tmp_path / "x.pt", pickle.dumps(content, protocol))
    one_line(lambda: tensorfiles.state_dict(path), "holds no state dict")  # as it is, but nothing was refused
    found = pickles.read(io.BytesIO(pickle.dumps(content, protocol)))
    assert str(found["settings"]["partial"].kind) == "functools.partial"
    assert len(found["settings"]) == len(SETTINGS)


def test_tensors_that_are_not_dense_are_named(tmp_path):
    storage = b"(S'storage'\nctorch\nFloatStorage\nS'0'\nS'cpu'\nI1\ntQ"
    dense = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"I0\n(I1\nt(I1\ntI00\n}tR"
    sparse = b"ctorch._utils\n_rebuild_sparse_tensor\n(I1\ntR"
    path = archive(tmp_path / "x.pt", b"(S'a.weight'\n" + dense + b"S'b.weight'\n" + sparse + b"d.")
    one_line(lambda: tensorfiles.state_dict(path), "b.weight is made by torch._utils._rebuild_sparse_tensor")


def test_handwritten_instructions_do_not_run(tmp_path):
    marker = tmp_path / "marker"
    command = f"touch {marker}".encode()
    programs = [
        b"(S'" + command + b"'\nios\nsystem\n.",  # INST
        b"(cos\nsystem\nS'" + command + b"'\no.",  # OBJ
        b"cos\nsystem\n(S'" + command + b"'\ntR.",  # REDUCE
        b"\x80\x02cos\nsystem\n(U" + bytes([len(command)]) + command + b"t\x81.",  # NEWOBJ
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c"
        + bytes([len(command)])
        + command
        + b"\x85R.",  # STACK_GLOBAL
        b"cbuiltins\ngetattr\n(cos\nsystem\nS'__call__'\ntR(S'" + command + b"'\ntR.",
        b"ccollections\nOrderedDict\n(cos\nsystem\nS'" + command + b"'\ntR.",
        b"ccollections\nOrderedDict\n(tR}S'__class__'\ncos\nsystem\nsb.",  # BUILD
        b"\x82\x01.",  # an extension code
        b"Pos.system\n.",  # a persistent name
    ]
    for program in programs:
        with pytest.raises(ValueError):
            tensorfiles.state_dict(archive(tmp_path / "x.pt", program))
    assert not marker.exists()
    # The first ones would have: the machine of the standard library is not ours.
    pickle.loads(programs[0])
    assert marker.exists()


def test_views_outside_their_storage_are_refused(tmp_path):
    source = (HERE / "legacy.pt").read_bytes()
    # The weight is BININT1 offset 0, then the sizes 2, 3 and the strides 3, 1.
    shape = b"K\x00K\x02K\x03\x86"
    assert source.count(shape) == 1
    for forged in (b"K\x00K\x02K\xff\x86", b"K\x05K\x02K\x03\x86", b"K\x00K\xffK\x03\x86"):
        path = tmp_path / "x.pt"
        path.write_bytes(source.replace(shape, forged))
        one_line(lambda path=path: tensorfiles.state_dict(path), "does not fit its storage of 6 numbers")


# --- damaged, or something else ------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
def test_every_truncation_is_one_line(tmp_path, name):
    whole, path = (HERE / name).read_bytes(), tmp_path / "x.pt"
    step = math.ceil(len(whole) / 200)
    for end in range(0, len(whole) - 1, step):
        path.write_bytes(whole[:end])
        one_line(lambda: tensorfiles.state_dict(path), "load:", "x.pt")


@pytest.mark.parametrize("name", FORMATS)
def test_damage_is_one_line_or_harmless(tmp_path, name):
    whole, path, rng = (HERE / name).read_bytes(), tmp_path / "x.pt", np.random.default_rng(0)
    refused = 0
    for _ in range(400):
        damaged = bytearray(whole)
        for at in rng.integers(0, len(whole), 3):
            damaged[at] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            found = tensorfiles.state_dict(path)
        except ValueError as error:
            assert "\n" not in str(error)
            refused += 1
        else:
            assert all(isinstance(value, np.ndarray) for value in found.values())
    assert refused > 50


def test_other_files(tmp_path):
    path = tmp_path / "x.pt"
    for content, word in [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"\x93NUMPY", "neither"),
        (pickle.dumps({"a": 1}), "not of torch.save"),
        (struct.pack("<Q", 1000) + b"{", "header"),
    ]:
        path.write_bytes(content)
        one_line(lambda: tensorfiles.state_dict(path), word, "x.pt")
    one_line(lambda: tensorfiles.state_dict(tmp_path / "none.pt"), "none.pt", "No such file")
    with zipfile.ZipFile(path, "w") as target:
        target.writestr("readme", "")
    one_line(lambda: tensorfiles.state_dict(path), "torch.save did not write")
    with zipfile.ZipFile(path, "w") as target:
        target.writestr("a/data.pkl", pickle.dumps({}))
        target.writestr("a/constants.pkl", b"")
    one_line(lambda: tensorfiles.state_dict(path), "TorchScript")
    one_line(lambda: tensorfiles.state_dict(archive(path, pickle.dumps({"epoch": 1}))), "no state dict")
    whole = pickle.dumps(Whole())
    one_line(lambda: tensorfiles.state_dict(archive(path, whole)), "Whole", "state_dict()")


class Whole:
    """A network saved as an object."""


def test_several_state_dicts_want_a_name(tmp_path):
    tensor = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    flat = safetensors(tmp_path / "x.safetensors", {"a.w": tensor}, bytes(4))
    assert list(tensorfiles.state_dict(flat, "")) == ["a.w"]
    one_line(lambda: tensorfiles.state_dict(flat, "ema"), "'ema'", "must be one of")


@pytest.mark.oracle
@pytest.mark.parametrize("new", [True, False])
def test_what_torch_writes_now(tmp_path, new):
    torch = pytest.importorskip("torch")
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.rand(2, 3, 5, 5)).sum().backward()
    optimizer.step()
    plan = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 2])
    path, inner = tmp_path / "x.pt", net.state_dict()

    def save(value):
        torch.save(value, path, _use_new_zipfile_serialization=new)

    def agrees(entry=None, scale=1.0):
        found = tensorfiles.state_dict(path, entry)
        assert list(found) == list(inner)
        for name, value in inner.items():
            np.testing.assert_array_equal(found[name], scale * value.numpy())

    double = {name: 2 * value for name, value in inner.items()}
    rest = {"optimizer": optimizer.state_dict(), "plan": plan.state_dict(), "rng": torch.get_rng_state()}
    rest |= {
        "best": np.float64(3),
        "numpy": np.arange(3),
        "kind": torch.float32,
        "size": torch.Size([1]),
    }
    save(inner)
    agrees()
    save({"model": inner, **rest})
    agrees()
    agrees("model")
    save({"net": inner, "model": inner, **rest})  # one state dict under two names
    agrees()
    save({"model": inner, "all": {"ema": double}, **rest})
    one_line(lambda: tensorfiles.state_dict(path), "model", "all/ema", "entry")
    agrees("all/ema", 2.0)
    save(net)
    one_line(lambda: tensorfiles.state_dict(path), "Sequential", "state_dict()")


@pytest.mark.oracle
@pytest.mark.parametrize(
    "dtype", ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]
)
def test_every_type_of_number(tmp_path, dtype):
    torch = pytest.importorskip("torch")
    value = torch.arange(12).reshape(3, 4).to(getattr(torch, dtype))
    path = tmp_path / "x.pt"
    torch.save({"a.w": value[1:].T, "a.none": value[:0]}, path)
    found = tensorfiles.state_dict(path)
    wide = value.float() if dtype == "bfloat16" else value
    np.testing.assert_array_equal(found["a.w"], wide[1:].T.numpy(), strict=True)
    assert found["a.none"].shape == (0, 4)
