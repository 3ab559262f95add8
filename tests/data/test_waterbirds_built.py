"""Waterbirds made of CUB and Places: who lives on water, how many are on which place, and what a picture shows."""

import numpy as np
import pytest
from PIL import Image

from robustjax.data.waterbirds_built import birds, combined, covering, waterbirds_built

SPECIES = (
    "001.Black_footed_Albatross",
    "021.Eastern_Towhee",
    "118.House_Sparrow",
    "190.Red_cockaded_Woodpecker",
)


def saved(path, colour, size):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L" if isinstance(colour, int) else "RGB", size, colour).save(path)


@pytest.fixture
def raw(tmp_path):
    """Twenty birds of each of four species, half of them for testing; red birds on green land or blue water."""
    cub, places, images, official = tmp_path / "cub", tmp_path / "places", [], []
    for i in range(80):
        name = f"{SPECIES[i // 20]}/bird_{i}.jpg"
        saved(cub / "images" / name, (200, 0, 0), (40, 32))
        mask = np.zeros((32, 40), np.uint8)
        mask[:, :16] = 255
        (cub / "segmentations" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save((cub / "segmentations" / name).with_suffix(".png"))
        images.append(f"{i + 1} {name}")
        official.append(f"{i + 1} {i % 2}")
    (cub / "images.txt").write_text("\n".join(images))
    (cub / "train_test_split.txt").write_text("\n".join(official))
    for i in range(30):
        for kind in ("b/bamboo_forest", "f/forest/broadleaf"):
            saved(places / "data_large" / kind / f"{i}.jpg", (0, 160, 0), (64, 32))
        for kind in ("o/ocean", "l/lake/natural"):
            saved(places / "data_large" / kind / f"{i}.jpg", (0, 0, 160), (20, 64))
    return cub, places


def test_every_bird_has_a_split_a_place_and_a_background_of_its_own(raw):
    """As published the towhee counts as a waterbird, for its name holds "tern"."""
    found = birds(*raw)
    by_species = {name: {b.label for b in found if b.file.startswith(name)} for name in SPECIES}
    assert list(by_species.values()) == [{1}, {1}, {0}, {0}]
    assert [sum(b.split == s for b in found) for s in ("train", "validation", "test")] == [32, 8, 40]
    assert len({b.background for b in found}) == 80
    assert all(
        (("ocean" in str(b.background)) or ("lake" in str(b.background))) == bool(b.place) for b in found
    )
    for label in (0, 1):
        known = [b.place for b in found if b.split == "train" and b.label == label]
        assert sum(known) == round((0.95 if label else 0.05) * len(known))
        assert sum(b.place for b in found if b.split == "test" and b.label == label) == 10  # half of 20
    assert birds(*raw) == found != birds(*raw, seed=1)
    assert {b.place == b.label for b in birds(*raw, correlation=1.0) if b.split == "train"} == {True}


def test_a_picture_shows_the_bird_on_its_background(raw):
    found = waterbirds_built(*raw, "test", segmentations=raw[0] / "segmentations", size=28)
    rows = np.arange(len(found))
    image, mask = found.image(rows), found.mask(rows)
    assert found.groups == 4 and np.bincount(found.group).tolist() == [10, 10, 10, 10]
    np.testing.assert_allclose(image[:, :, :8], np.broadcast_to([200, 0, 0], (40, 28, 8, 3)), atol=4)
    behind = np.where(found.place[:, None], [0, 0, 160], [0, 160, 0])
    np.testing.assert_allclose(
        image[:, :, 14:], np.broadcast_to(behind[:, None, None], (40, 28, 14, 3)), atol=4
    )
    assert (mask[:, :, :8] == 1).all() and (mask[:, :, 14:] == 0).all()


def test_backgrounds_are_cut_around_their_centre():
    """Of 40 x 20 pixels, a square keeps the 20 columns in the middle; a soft mask mixes and rounds each part."""
    wide = np.zeros((20, 40, 3), np.uint8)
    wide[:, 10:30] = [0, 99, 0]
    assert (np.asarray(covering(Image.fromarray(wide), (10, 10))) == [0, 99, 0]).all()
    assert covering(Image.fromarray(wide), (50, 50)).size == (50, 50)
    bird, mask, behind = (
        Image.new(mode, (4, 4), colour)
        for mode, colour in (("RGB", (100, 7, 0)), ("L", 51), ("RGB", (200, 8, 255)))
    )
    one = combined(bird, mask, behind)
    assert (np.asarray(one) == [20 + 160, 1 + 6, 204]).all()  # m = 1/5
    with pytest.raises(ValueError, match="must be equal"):
        combined(Image.new("RGB", (4, 4)), Image.new("L", (4, 5)), Image.new("RGB", (4, 4)))


def test_what_may_be_lacking(raw):
    cub, places = raw
    with pytest.raises(ValueError, match=r"has 60 pictures of ocean and lake/natural, must have at least"):
        (cub / "images.txt").write_text("\n".join(f"{i} {SPECIES[0]}/bird_0.jpg" for i in range(200)))
        (cub / "train_test_split.txt").write_text("\n".join(f"{i} 1" for i in range(200)))
        birds(cub, places)
    (cub / "train_test_split.txt").write_text("1 1\n")
    with pytest.raises(ValueError, match="number other images"):
        birds(cub, places)
    with pytest.raises(ValueError, match=r"images.txt; CUB_200_2011 must be downloaded"):
        birds(places, places)
    with pytest.raises(ValueError, match="split is 'val'"):
        waterbirds_built(cub, places, "val", segmentations=cub)
    with pytest.raises(ValueError, match="correlation is 2"):
        birds(cub, places, correlation=2)
