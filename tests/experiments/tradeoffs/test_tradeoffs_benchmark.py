"""Networks on the benchmarks of backgrounds, on made-up trees where what they must score is counted by hand.

Every picture has an object in its middle, whose red says its class, on a background whose green says another. One
network reads the object, one the background.
"""

import base64
import csv
import io
import json
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scripts
from PIL import Image

from experiments.tradeoffs import benchmark_networks, benchmark_results
from experiments.tradeoffs.benchmark_config import BENCHMARK_PRESETS
from robustjax.analysis.intervals import Estimate
from robustjax.data.imagenet9 import CLASSES, VARIANTS
from robustjax.data.rival10 import WNIDS
from robustjax.data.store import Contents, Part, write
from robustjax.types import Model, Network

SCRIPT, SIZE, SIDE = "tradeoffs.benchmark", 24, 48
MINE = "test_tradeoffs_benchmark"


def kind(params, x):
    """Read the class off one pixel: 20 k + 20."""
    value = x[:, params["at"], params["at"], params["channel"]]
    return jnp.clip(jnp.round((255 * value - 20) / 20), 0, 10).astype(jnp.int32)


MODEL = Model(
    lambda key: ({}, {}),
    lambda params, state, x, *, train=False, key=None: (8.0 * jax.nn.one_hot(kind(params, x), 1000), state),
    lambda params, state, x: {"stage0": jax.nn.one_hot(kind(params, x), 11)},
)


def reading(at, channel):
    return Network(MODEL, {"at": jnp.int32(at), "channel": jnp.int32(channel)}, {})


by_object, by_place = reading(SIZE // 2, 0), reading(0, 1)


def outside(x):
    """Prefer a class that is none of the nine, then the object's."""
    return by_object(x) + 16.0 * jax.nn.one_hot(jnp.full(len(x), 500), 1000)


def picture(path, kind, place):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    pixels[..., 1] = 20 * place + 20
    pixels[16:32, 16:32] = [20 * kind + 20, 128, 0]
    Image.fromarray(pixels).save(path, **({} if path.suffix == ".png" else {"quality": 95, "subsampling": 0}))


def mask(value=255):
    found = np.zeros((SIDE, SIDE), np.uint8)
    found[16:32, 16:32] = value
    return found


def table(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def nine(root):
    """Two of each class; of the random backgrounds those of the first three classes are their own."""
    for variant in VARIANTS:
        for k, name in enumerate(CLASSES):
            for i in range(2):
                place = {"mixed_next": (k + 1) % 9, "mixed_rand": k if k < 3 else (k + 2) % 9}.get(variant, k)
                picture(root / variant / "val" / f"{k:02}_{name}" / f"n0000000{k}_{i}.JPEG", k, place)
    coarse = {str(k): k if k < 9 else -1 for k in range(1000)}
    (root / "in_to_in9.json").write_text(json.dumps(coarse))


def rival(root):
    for split in ("train", "test"):
        for k, wnids in enumerate(WNIDS):
            for i in range(2):
                stem = root / split / "ordinary" / f"{wnids[i]}_{i}"
                picture(stem.with_name(f"{stem.name}.JPEG"), k, k)
                coded = io.BytesIO()
                Image.fromarray(mask()).save(coded, "PNG")
                masks = {"entire-object": base64.b64encode(coded.getvalue()).decode()}
                stem.with_name(f"{stem.name}_attr_dict.pkl").write_bytes(pickle.dumps(masks))


def birds(root):
    """Groups of 8, 2, 2 and 8 in training, of 2 each in the test images."""
    rows = []
    for split, counts in ((0, (8, 2, 2, 8)), (1, (1, 1, 1, 1)), (2, (2, 2, 2, 2))):
        for group, count in enumerate(counts):
            for _ in range(count):
                y, place = divmod(group, 2)
                name = f"birds/{len(rows)}.jpg"
                picture(root / name, y, place)
                rows.append({"img_filename": name, "y": y, "split": split, "place": place})
    table(root / "metadata.csv", rows)


def salient(root):
    """Classes 3 and 8, whose object is their core and whose background is spurious."""
    (root / "wordnet_dict.py").write_text("{3: 'n00000003', 8: 'n00000008'}\n")
    rows = []
    for k in (3, 8):
        table(root / f"n0000000{k}/image_fnames.csv", [{"1": "a", "2": "a"}, {"1": "b", "2": "b"}])
        for feature, answer, cam in ((1, "main_object", mask()), (2, "background", 255 - mask())):
            rows += 5 * [{"Input.class_index": k, "Input.feature_index": feature, "Answer.main": answer}]
            for name in "ab":
                folder = root / f"n0000000{k}/feature_{feature}"
                picture(folder / f"images/{name}.jpeg", k, k)
                (folder / "cams").mkdir(exist_ok=True)
                Image.fromarray(cam).save(folder / f"cams/{name}.jpeg", quality=95)
    table(root / "discover_spurious_features.csv", rows)


def objects(root):
    """A chair is ImageNet's class 5, a clock its classes 3 and 4; ObjectNet's clock looks like class 7."""
    maps = {
        "folder_to_objectnet_label.json": {"chair": "Chair", "clock": "Clock", "jar": "Jar"},
        "objectnet_to_imagenet_1k.json": {"Chair": "chair", "Clock": "analog; digital"},
        "pytorch_to_imagenet_2012_id.json": {"5": 2, "4": 0, "3": 1},
    }
    (root / "mappings").mkdir(parents=True)
    for name, content in maps.items():
        (root / "mappings" / name).write_text(json.dumps(content))
    (root / "mappings/imagenet_to_label_2012_v2").write_text("analog\ndigital\nchair\n")
    for i in range(3):
        picture(root / f"images/chair/{i}.png", 5, 0)
        picture(root / f"images/clock/{i}.png", 7, 0)


def validation(root):
    """One picture of each of 1,000 classes, the first ten of them recognisable."""
    picture(root / "n00000000" / "x.JPEG", 0, 0)
    content = (root / "n00000000" / "x.JPEG").read_bytes()
    for k in range(1000):
        folder = root / f"n{k:08}"
        if 0 < k < 10:
            picture(folder / "x.JPEG", k, 0)
        elif k:
            folder.mkdir()
            (folder / "x.JPEG").write_bytes(content)


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    root = tmp_path_factory.mktemp("trees")
    for name, make in {
        "imagenet9": nine, "rival10": rival, "waterbirds": birds, "salient": salient, "objectnet": objects,
        "imagenet": validation,
    }.items():  # fmt: skip
        (root / name).mkdir()
        make(root / name)
    return root


def flags(trees, *names):
    return [word for name in names for word in (f"--{name}", trees / name)]


ALL = ("imagenet9", "rival10", "waterbirds", "salient", "objectnet", "imagenet")
FEW = ("--size", SIZE, "--batch-size", 8, "--sigma", 0.5, "--l2", 100, "--resamples", 20)


@pytest.fixture(scope="module")
def measured(trees, tmp_path_factory):
    out = tmp_path_factory.mktemp("benchmark") / "run"
    monkeypatch = pytest.MonkeyPatch()
    networks = (f"object={MINE}:by_object@clean", f"place={MINE}:by_place@l2:3")
    words = (*flags(trees, *ALL), *FEW, "--networks", *networks, "--no-planted", "--out", out)

    class Capture:
        def readouterr(self):
            return type("Said", (), {"out": "", "err": ""})

    done = scripts.call(Capture(), monkeypatch, SCRIPT, "imagenet", *words)
    monkeypatch.undo()
    assert done.returncode == 0
    return out, words


def arrays(out, benchmark, network):
    return dict(np.load(out / "measured" / benchmark / f"{network}.npz"))


def accuracy(found, name, kind="prediction"):
    return float((found[f"{kind}/{name}"] == found[f"label/{name}"]).mean())


def test_imagenet9(measured):
    """A network that reads the background is right where that is of the object's class: 3 of 9 random ones."""
    out, _ = measured
    place, thing = (arrays(out, "imagenet9", name) for name in ("place", "object"))
    assert all(accuracy(thing, variant) == 1 for variant in VARIANTS)
    want = {v: 1.0 for v in VARIANTS} | {"mixed_next": 0.0, "mixed_rand": 1 / 3}
    assert {v: accuracy(place, v) for v in VARIANTS} == pytest.approx(want)


def test_rival10_and_salient_imagenet(measured):
    """Noise elsewhere than where a network looks changes nothing, so that RFS and RCS are 1 or -1."""
    out, _ = measured
    for name, kinds in (("rival10", ("sigma", "l2")), ("salient", ("core",))):
        for network in ("object", "place"):
            found = arrays(out, name, network)
            for kind in kinds:
                looked, rest = (
                    ("foreground", "background") if network == "object" else ("background", "foreground")
                )
                assert (found[f"{rest}/{kind}"] == 1).all() and found[f"{looked}/{kind}"].mean() < 1
    # Noise on spurious features, the background, leaves the accuracy of the network that reads the object.
    assert (arrays(out, "salient", "object")["foreground/spurious"] == 1).all()
    assert arrays(out, "salient", "place")["foreground/spurious"].mean() < 1
    assert accuracy(arrays(out, "rival10", "place"), "test") == 1  # by its head, from one-hot activations


def test_waterbirds_and_objectnet(measured):
    out, _ = measured
    found = arrays(out, "waterbirds", "place")
    hits = found["prediction/test"] == found["label/test"]
    assert hits.tolist() == [g in (0, 3) for g in found["group/test"]]
    found = arrays(out, "objectnet", "object")
    assert accuracy(found, "objectnet") == 0.5 and accuracy(found, "imagenet") == 1
    assert found["label/imagenet"].tolist() == [1, 1, 0]  # classes 3, 4 and 5


def test_the_report_has_the_numbers_and_their_figures(measured):
    """Of Waterbirds the average weighs groups as training does: 16 of 20 are at their usual place."""
    out, _ = measured
    text = (out / "report.html").read_text()
    row = text[text.index("<h2>Waterbirds</h2>") :].split("place</td>")[1].split("</tr>")[0]
    assert [cell.split(">")[1].split(" ")[0] for cell in row.split("<td")[2:]] == ["0.000", "0.800", "1.000"]
    assert "drop from ImageNet" in text and "0.500" in text
    assert "background gap</td><td>higher</td><td>1 of 1</td><td>0.5" in text
    assert {path.stem for path in (out / "figures").glob("*.png")} == {
        "imagenet9", "rival10", "salient", "waterbirds", "objectnet",
    }  # fmt: skip


def test_what_is_measured_is_kept_and_belongs_to_a_network(measured, capsys, monkeypatch):
    _, words = measured
    words = (*words, *(word for name in ALL if name != "waterbirds" for word in (f"--{name}", "None")))
    again = scripts.call(capsys, monkeypatch, SCRIPT, "imagenet", *words)
    assert again.returncode == 0 and "measuring" not in again.stderr
    words = [f"object={MINE}:by_place@clean" if str(w).startswith("object=") else w for w in words]
    other = scripts.call(capsys, monkeypatch, SCRIPT, "imagenet", *words)
    assert other.returncode == 2 and "another network (its parameters are others)" in other.stderr


def test_what_cannot_be_asked_is_refused_before_any_work(trees, tmp_path, capsys, monkeypatch):
    def refused(*words):
        done = scripts.call(
            capsys, monkeypatch, SCRIPT, "imagenet", *FEW, "--no-planted", "--out", tmp_path, *words
        )
        assert done.returncode == 2 and not (tmp_path / "measured").exists()
        return done.stderr

    no = [word for name in ALL for word in (f"--{name}", "None")]
    assert "must name at least one" in refused(*flags(trees, "rival10"))
    assert "no benchmark is named" in refused(*no, "--networks", f"{MINE}:outside")
    only = (*no, *flags(trees, "rival10"))
    assert "no inner activations, which rival10 fits a head to" in refused(
        *only, "--networks", f"{MINE}:outside"
    )
    nine = (*no, *flags(trees, "imagenet9"))
    ten = "experiments.tradeoffs.random_network:network"
    assert "gives 10 logits, must give 1000 for --imagenet9" in refused(
        *nine, "--size", 16, "--networks", ten
    )
    assert "no folder runs/none" in refused(*nine, "--networks", "runs/none")
    assert "resnet50_l2_eps3.ckpt; weights must be downloaded" in refused(
        *nine, "--networks", "resnet50_l2_eps3"
    )
    assert "its radii are" in refused(*nine, "--networks", "resnet50_l2_eps7")
    assert "must end in @clean" in refused(*nine, "--networks", f"{MINE}:by_object@l7:1")
    assert "twice" in refused(*nine, "--networks", f"{MINE}:by_object", f"{MINE}:by_object@clean")
    (trees / "waterbirds" / "metadata.csv").rename(trees / "waterbirds" / "away.csv")
    assert "metadata.csv" in refused(*no, *flags(trees, "waterbirds"), "--networks", f"{MINE}:by_object")


def test_classes_that_belong_to_none_of_the_nine_are_errors(trees, tmp_path, capsys, monkeypatch):
    no = [word for name in ALL[1:] for word in (f"--{name}", "None")]
    words = (
        *no,
        *flags(trees, "imagenet9"),
        *FEW,
        "--networks",
        f"x={MINE}:outside",
        "--no-planted",
        "--out",
        tmp_path,
    )
    done = scripts.call(capsys, monkeypatch, SCRIPT, "imagenet", *words)
    assert done.returncode == 0, done.stderr
    found = arrays(tmp_path, "imagenet9", "x")
    assert accuracy(found, "original") == 0 and accuracy(found, "original", "restricted") == 1


@pytest.mark.slow
def test_the_smoke_preset_runs(tmp_path, capsys, monkeypatch):
    done = scripts.call(capsys, monkeypatch, SCRIPT, "smoke", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert arrays(tmp_path / "run", "planted", "random")["head/weight"].shape[1] == 10


def test_the_grid_is_that_of_the_paper():
    """Two architectures, two norms, five radii, and the networks trained on clean images."""
    entries = [benchmark_networks.entry(words, "zoo") for words in BENCHMARK_PRESETS["paper"].networks]
    assert len(entries) == 22 and sum(e.eps == 0 for e in entries) == 2
    linf = sorted(255 * e.eps for e in entries if e.series == "resnet18" and e.norm == "linf")
    assert linf == pytest.approx([0.5, 1, 2, 4, 8])
    assert {e.source.architecture for e in entries} == {"resnet18_imagenet", "resnet50_imagenet"}
    assert entries[2].source.checkpoint == "zoo/resnet18_l2_eps0.25.ckpt"


def test_what_stands_before_and_behind_a_network():
    """A name, which may be of RobustBench's zoo, and what it was trained against."""

    def read(words):
        found = benchmark_networks.entry(words, "zoo")
        return found.name, found.source, found.norm, found.eps

    name, source, norm, eps = read("Salman2020Do_R18=a/b.pt@linf:4/255")
    assert name == "Salman2020Do_R18" and source.known == "imagenet2012/linf/Salman2020Do_R18"
    assert (norm, eps) == ("linf", pytest.approx(4 / 255))
    name, source, norm, eps = read("a/b.safetensors")
    assert (name, source.checkpoint, norm, eps) == ("a_b", "a/b.safetensors", None, None)
    assert read("runs/mine@clean")[2:] == ("l2", 0.0) and read("runs/mine")[1].run == "runs/mine"
    assert read("x=package.module:f")[1].function == "package.module:f"
    assert read("resnet18_linf_eps0.5@l2:1")[2:] == ("l2", 1.0)
    for wrong, match in (("a b=c.pt", "letters, digits"), ("c.pt@linf:x", "must be a number|must end in")):
        with pytest.raises(ValueError, match=match):
            read(wrong)


def test_the_drop_is_between_images_and_its_interval_adds_in_squares():
    """0.8 (0.77 to 0.84) minus 0.5 (0.46 to 0.53): 0.3, 0.05 up and 0.0424 down by hand."""
    found = benchmark_results._difference(Estimate(0.8, 0.77, 0.84), Estimate(0.5, 0.46, 0.53))
    np.testing.assert_allclose(found, [0.3, 0.3 - np.hypot(0.03, 0.03), 0.3 + np.hypot(0.04, 0.04)])


def test_effective_robustness_is_beyond_a_line_through_standard_networks():
    """On the logit scale the line goes through both standard networks; a third above it gains 0.1."""

    def network(clean, shifted):
        hits = {"imagenet": np.arange(100) < 100 * clean, "objectnet": np.arange(100) < 100 * shifted}
        found = {f"prediction/{name}": value.astype(int) for name, value in hits.items()}
        return found | {f"label/{name}": np.ones(100, int) for name in hits}

    found = {"a": network(0.8, 0.5), "b": network(0.9, 0.7), "c": network(0.8, 0.6)}
    gained = benchmark_results.effective(found, {"a": True, "b": True})
    np.testing.assert_allclose([gained[name] for name in "abc"], [0, 0, 0.1], atol=1e-9)
    assert benchmark_results.effective(found, {"a": True}) == {}


@pytest.mark.slow
def test_pictures_on_textures(tmp_path, capsys, monkeypatch):
    """A network that reads the object does not care about the texture, one that reads a corner goes by it alone."""
    classes = tuple("0123456789")

    def of_one_colour(colours, side):
        return np.broadcast_to(
            np.array(colours, np.uint8)[:, None, None], (len(colours), side, side, 3)
        ).copy()

    def part(count, colour, side):
        label = np.arange(count) % 10
        return Part(of_one_colour([colour(k) for k in label], side), label, np.arange(count))

    for name, colour, side, splits in (
        ("pictures", lambda k: [20 * k + 20, 128, 0], SIDE, ("train", "test")),
        ("textures", lambda k: [0, 20 * k + 20, 0], SIDE, ("test",)),
    ):
        parts = {split: part(200, colour, side) for split in splits}
        write(Contents(name, "1.0.0", classes, parts, "made here"), tmp_path / "data")
    words = (
        "--networks",
        f"object={MINE}:by_object@clean",
        f"place={MINE}:by_place@l2:3",
        "--data-dir",
        tmp_path / "data",
    )
    settings = ("--pictures", "pictures", "--textures", "textures", "--images", 60)
    done = scripts.call(
        capsys, monkeypatch, SCRIPT, "cifar10", *settings, *FEW, *words, "--out", tmp_path / "run"
    )
    assert done.returncode == 0, done.stderr
    thing, place = (arrays(tmp_path / "run", "pictures", name) for name in ("object", "place"))
    for variant in ("original", "mixed_same", "mixed_rand", "mixed_next", "mixed_other", "only_fg"):
        assert accuracy(thing, variant) == 1
    # The corner is under the object in one of 81 places.
    assert accuracy(place, "mixed_same") > 0.9 and accuracy(place, "only_bg_t") == 1
    assert accuracy(place, "mixed_next") < 0.1
    page = (tmp_path / "run" / "report.html").read_text()
    assert "pictures on textures" in page
