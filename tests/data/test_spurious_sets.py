"""Readers of published trees, each on a tiny tree of the same layout: what is read, and what is missing."""

import base64
import csv
import io
import json
import pickle

import numpy as np
import pytest
from PIL import Image

from robustjax.data import scenes, trees
from robustjax.data.imagenet9 import CLASSES, imagenet9, to_imagenet9
from robustjax.data.objectnet import objectnet
from robustjax.data.rival10 import rival10
from robustjax.data.salient_imagenet import annotations, salient_imagenet
from robustjax.data.waterbirds import waterbirds


def picture(path, colour, size=(32, 32)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB" if isinstance(colour, tuple) else "L", size, colour).save(path)
    return path


def table(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def half(size=32):
    """White on its left half."""
    mask = np.zeros((size, size), np.uint8)
    mask[:, : size // 2] = 255
    return mask


def everything(found):
    rows = np.arange(len(found))
    return found.image(rows), None if found.mask is None else found.mask(rows)


@pytest.fixture
def birds(tmp_path):
    rows = []
    for i, (y, place, split) in enumerate([(0, 0, 0), (1, 1, 0), (0, 1, 1), (1, 0, 2), (1, 1, 2)]):
        name = f"{i:03}.Bird/Bird_{i}.jpg"
        picture(tmp_path / name, (10 * i, 100, 200), (40 + i, 30))
        (tmp_path / "segmentations" / name).parent.mkdir(parents=True)
        Image.fromarray(half()).save((tmp_path / "segmentations" / name).with_suffix(".png"))
        rows.append(
            {"img_id": i, "img_filename": name, "y": y, "split": split, "place": place, "place_filename": "x"}
        )
    table(tmp_path / "metadata.csv", rows)
    return tmp_path


def test_waterbirds(birds):
    found = waterbirds(birds, "test", size=14)
    image, mask = everything(found)
    assert image.shape == (2, 14, 14, 3) and image.dtype == np.uint8 and mask is None
    np.testing.assert_allclose(image[:, :, :, 0].mean(axis=(1, 2)), [30, 40], atol=2)
    assert found.label.tolist() == [1, 1] and found.group.tolist() == [2, 3] and found.groups == 4
    (batch, valid), = scenes.batches(found, batch_size=3)  # fmt: skip
    assert valid.tolist() == [True, True, False]
    np.testing.assert_allclose(batch.image[0, 0, 0], np.array(image[0, 0, 0], np.float32) / 255)
    _, mask = everything(waterbirds(birds, "train", size=14, segmentations=birds / "segmentations"))
    assert mask.shape == (2, 14, 14) and (mask[:, :, :6] == 1).all() and (mask[:, :, 8:] == 0).all()


def test_what_waterbirds_may_lack(birds, tmp_path):
    with pytest.raises(ValueError, match=r"no .*metadata.csv; waterbird_complete95.* must be downloaded"):
        waterbirds(tmp_path / "nowhere", "test")
    with pytest.raises(ValueError, match="split is 'val'"):
        waterbirds(birds, "val")
    (birds / "003.Bird/Bird_3.jpg").unlink()
    with pytest.raises(ValueError, match=r"1 of 2 pictures are absent, the first is .*Bird_3.jpg"):
        waterbirds(birds, "test")
    (birds / "000.Bird/Bird_0.jpg").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"Bird_0.jpg: damaged picture"):
        waterbirds(birds, "train").image(np.array([0]))
    (birds / "metadata.csv").write_text("img_filename,y,split\n")
    with pytest.raises(ValueError, match="has no column place"):
        waterbirds(birds, "test")


@pytest.fixture
def nine(tmp_path):
    for k, name in enumerate(CLASSES):
        folder, stem = f"{k:02}_{name}", f"n0000000{k}_12"
        picture(tmp_path / "original/val" / folder / f"{stem}.JPEG", (20 * k, 0, 0))
        for variant in ("mixed_rand", "mixed_next"):
            picture(tmp_path / variant / "val" / folder / f"fg_{stem}_bg_n00000009_7.JPEG", (0, 20 * k, 0))
        mask = tmp_path / "fg_mask/val" / folder / f"{stem}.npy"
        mask.parent.mkdir(parents=True)
        np.save(mask, half() > 0)
    return tmp_path


def test_imagenet9(nine):
    original, mixed = imagenet9(nine, "original", size=16), imagenet9(nine, "mixed_rand", size=16)
    image, mask = everything(original)
    np.testing.assert_allclose(image[..., 0].mean(axis=(1, 2)), 20 * np.arange(9), atol=3)
    np.testing.assert_array_equal(mask, everything(mixed)[1])
    assert (mask[:, :, :7] == 1).all() and (mask[:, :, 9:] == 0).all()
    assert original.label.tolist() == original.place.tolist() == list(range(9)) and (mixed.place == -1).all()
    assert imagenet9(nine, "mixed_next").place.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 0]
    (nine / "fg_mask/val/03_reptile/n00000003_12.npy").unlink()
    assert imagenet9(nine, "mixed_rand").mask is None
    with pytest.raises(ValueError, match=r"no .*only_fg.val; the backgrounds challenge must be downloaded"):
        imagenet9(nine, "only_fg")
    with pytest.raises(ValueError, match="variant is 'mixed_other'"):
        imagenet9(nine, "mixed_other")


def test_map_to_imagenet9(tmp_path):
    coarse = {str(k): (k % 10) - 1 for k in range(1000)}
    (tmp_path / "in_to_in9.json").write_text(json.dumps(coarse))
    np.testing.assert_array_equal(np.bincount(to_imagenet9(tmp_path / "in_to_in9.json") + 1), [100] * 10)
    (tmp_path / "in_to_in9.json").write_text(json.dumps({"0": 1}))
    with pytest.raises(ValueError, match=r"maps 1 classes, must map 0..999"):
        to_imagenet9(tmp_path / "in_to_in9.json")


@pytest.fixture
def rival(tmp_path):
    folder = tmp_path / "test/ordinary"
    for wnid in ("n02391049", "n03796401"):
        picture(folder / f"{wnid}_5.JPEG", (200, 10, 10), (50, 25))
        picture(folder / f"{wnid}_5_merged_mask.JPEG", 255)
        coded = io.BytesIO()
        Image.fromarray(half()).save(coded, "JPEG")
        masks = {"tail": "", "entire-object": base64.b64encode(coded.getvalue()).decode()}
        (folder / f"{wnid}_5_attr_dict.pkl").write_bytes(pickle.dumps(masks))
    return tmp_path


def test_rival10(rival):
    found = rival10(rival, "test", size=16)
    image, mask = everything(found)
    assert [found.classes[k] for k in found.label] == ["equine", "truck"] and image.shape == (2, 16, 16, 3)
    assert (mask[:, :, :7] == 1).all() and (mask[:, :, 9:] == 0).all()


class Trap:
    def __reduce__(self):
        return print, ("ran",)


def test_what_rival10_may_lack(rival, capsys):
    trap = rival / "test/ordinary/n02391049_5_attr_dict.pkl"
    trap.write_bytes(pickle.dumps({"entire-object": Trap()}))
    with pytest.raises(ValueError, match="only arrays are allowed"):
        rival10(rival, "test").mask(np.array([0]))
    assert "ran" not in capsys.readouterr().out
    trap.write_bytes(pickle.dumps({"tail": ""}))
    with pytest.raises(ValueError, match="not the masks of RIVAL10"):
        rival10(rival, "test").mask(np.array([0]))
    trap.unlink()
    with pytest.raises(ValueError, match=r"attr_dict.pkl; RIVAL10 with its masks must be downloaded"):
        rival10(rival, "test")
    picture(rival / "test/ordinary/n00000000_5.JPEG", 0)
    with pytest.raises(ValueError, match=r"n00000000_5.JPEG is named after no class"):
        rival10(rival, "test")
    with pytest.raises(ValueError, match="ordinary; RIVAL10 must be downloaded"):
        rival10(rival, "train")


@pytest.fixture
def salient(tmp_path):
    (tmp_path / "wordnet_dict.py").write_text("{3: 'n00000003', 8: 'n00000008'}\n")
    rows = [
        {"Input.class_index": k, "Input.feature_index": f, "Answer.main": "background" if i < votes else "main_object"}
        for k, f, votes in ((3, 10, 2), (3, 11, 0), (3, 12, 3), (8, 10, 5))
        for i in range(5)
    ]  # fmt: skip
    table(tmp_path / "answers.csv", rows)
    table(
        tmp_path / "n00000003/image_fnames.csv",
        [{"10": "a", "11": "b", "12": "a"}, {"10": "b", "11": "c", "12": "b"}],
    )
    table(tmp_path / "n00000008/image_fnames.csv", [{"10": "z"}])
    for wnid, feature, names in (("3", 10, "ab"), ("3", 11, "bc"), ("3", 12, "ab"), ("8", 10, "z")):
        for name in names:
            folder = tmp_path / f"n0000000{wnid}/feature_{feature}"
            picture(folder / f"images/{name}.jpeg", (5, 50, 5))
            picture(folder / f"cams/{name}.jpeg", 4 * feature)
    return tmp_path


def test_salient_imagenet(salient):
    assert annotations(salient / "answers.csv") == {
        3: {10: "core", 11: "core", 12: "spurious"},
        8: {10: "spurious"},
    }
    core = salient_imagenet(salient, salient / "answers.csv", "core", size=8)
    _, mask = everything(core)
    assert core.label.tolist() == [3, 3, 3] and core.classes[3] == "n00000003"
    np.testing.assert_allclose(
        mask.max(axis=(1, 2)), np.array([40, 44, 44]) / 255, atol=0.01
    )  # a, b in both, c
    assert salient_imagenet(salient, salient / "answers.csv", "spurious").label.tolist() == [3, 3, 8]
    (salient / "n00000003/feature_11/cams/c.jpeg").unlink()
    with pytest.raises(
        ValueError, match=r"c.jpeg; salient_imagenet_dataset with its masks must be downloaded"
    ):
        salient_imagenet(salient, salient / "answers.csv", "core")
    (salient / "wordnet_dict.py").write_text("__import__('os').getcwd()")
    with pytest.raises(ValueError, match="not a plain dictionary"):
        salient_imagenet(salient, salient / "answers.csv", "core")


def test_objectnet(tmp_path):
    for name, content in {
        "folder_to_objectnet_label.json": {
            "air_freshener": "Air freshener",
            "chair": "Chair",
            "clock": "Alarm clock",
        },
        "objectnet_to_imagenet_1k.json": {
            "Chair": "folding chair",
            "Alarm clock": "analog clock; digital clock",
        },
        "pytorch_to_imagenet_2012_id.json": {"559": 2, "409": 0, "530": 1},
    }.items():
        path = tmp_path / "mappings" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))
    (tmp_path / "mappings/imagenet_to_label_2012_v2").write_text(
        "analog clock\ndigital clock\nfolding chair\n"
    )
    with pytest.raises(ValueError, match=r"chair; objectnet-1.0 must be downloaded"):
        objectnet(tmp_path)
    for folder in ("air_freshener", "chair", "clock"):
        framed = np.full((20, 24, 3), [255, 0, 0], np.uint8)
        framed[2:-2, 2:-2] = [0, 0, 99]
        (tmp_path / "images" / folder).mkdir(parents=True)
        Image.fromarray(framed).save(tmp_path / "images" / folder / "x.png")
    found, to_class = objectnet(tmp_path, size=8)
    assert found.classes == ("Chair", "Alarm clock") and found.label.tolist() == [0, 1]
    assert {k: v for k, v in enumerate(to_class) if v >= 0} == {559: 0, 409: 1, 530: 1}
    assert (found.image(np.arange(2)) == [0, 0, 99]).all()  # nothing of the border


def test_trees_refuse_what_is_no_tree(tmp_path):
    with pytest.raises(ValueError, match="there are no pictures"):
        trees.scenes("x", [], [], classes=(), size=8)
    with pytest.raises(ValueError, match="size is 0"):
        trees.scenes("x", [tmp_path], [0], classes=("a",), size=0)
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(ValueError, match="holds a list, must be an object"):
        trees.mapping(tmp_path / "list.json")


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_of_16_bit_grey_the_upper_8_are_kept(tmp_path, suffix):
    """Every reader of published trees opens pictures and masks so."""
    wide = np.linspace(0, 65535, 16).reshape(4, 4).astype(np.uint16)
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(wide).save(path)
    for source in (path, path.read_bytes()):
        np.testing.assert_array_equal(np.asarray(trees.read_picture(source)), wide >> 8)
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "f.tif")
    with pytest.raises(ValueError, match="floating-point numbers, must have 8 or 16 bits"):
        trees.read_picture(tmp_path / "f.tif")
