"""Scenes under many lights: what is rendered, and a tree of Multi-Illumination that is prepared and read back."""

import numpy as np
import pytest
from PIL import Image

from robustjax.data import lit, lit_scenes, multi_illumination

# The numbers of the published files, in their order.
NAMES = (
    "unassigned, I can't tell, More than one material, Cardboard, Ceramic, Concrete, Cork/corkboard, "
    "Dirt, Fabric/cloth, Foliage, Food, Fur, Glass, Granite/marble, Laminate, Leather, Linoleum, Metal, "
    "Mirror, Not on list, Painted, Paper/tissue, Plastic-clear, Plastic-opaque, Rubber/latex, Sponge, "
    "Styrofoam, Tile, splitshape, Wallpaper, Wax, Wicker, Wood, Stone, Chalkboard/blackboard, "
    "Carpet/rug, Brick, Skin, Water, Hair, no_consensus"
)


def test_materials_have_the_published_classes():
    classes, names = multi_illumination.CLASSES, NAMES.split(", ")
    assert len(names) == 41 and len(classes) == 36 and list(classes[:-1]) == sorted(classes[:-1])
    for number, name in enumerate(names):
        assert classes[multi_illumination.TO_CLASS[number]] == (name if name in classes else "Other")
    assert [multi_illumination.size(mip) for mip in (5, 4, 3)] == [(125, 187), (250, 375), (500, 750)]


def test_a_flat_floor_is_lit_by_the_cosine_and_a_tower_throws_its_shadow_away_from_the_lamp():
    flat, material, white = np.zeros((9, 9)), np.zeros((9, 9), np.uint8), np.ones((9, 9, 3))
    left, above = np.array([-1.0, 0.0, 1.0]) / np.sqrt(2), np.array([0.0, 0.0, 1.0])
    np.testing.assert_allclose(lit_scenes._lit(flat, material, 0.5 * white, above), 0.5 * (0.12 + 0.95))
    np.testing.assert_allclose(lit_scenes._lit(flat, material, white, left), 0.12 + 0.95 / np.sqrt(2))
    tower = flat.copy()
    tower[4, 4] = 3.0
    dark = lit_scenes._lit(tower, material, 0.5 * white, left)[4, :, 0] < 0.3
    # At 45 degrees a height of 3 reaches less than 3 pixels; the lamp is on the left, so the right is dark.
    assert dark[6] and not dark[:3].any() and not dark[8]


def test_splits_share_no_scene_and_are_the_same_every_time():
    parts = [lit_scenes.split(part, size=(8, 10), count=2) for part in ("train", "validation", "test")]
    assert all(p.image.shape == (2, 200, 10, 3) and p.label.shape == (2, 8, 10) for p in parts)
    assert len({p.info.sha256 for p in parts}) == 3
    assert lit_scenes.split("test", size=(8, 10), count=2).info.sha256 == parts[2].info.sha256
    lights = parts[0].image.reshape(2, 25, 8, 10, 3).astype(float)
    assert (np.abs(lights[:, 1:] - lights[:, :-1]).mean(axis=(2, 3, 4)) > 0.5).all()


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("raw"), np.random.default_rng(0)
    for scene in ("everett_kitchen2", "main_drylab1", "attic"):
        (folder / "downloads" / scene).mkdir(parents=True)
        for light in range(25):
            picture = np.full((31, 46, 3), 10 * light, np.uint8)
            Image.fromarray(picture).save(folder / "downloads" / scene / f"dir_{light}_mip7.jpg", quality=95)
        numbers = Image.fromarray(rng.integers(0, 41, (31, 46)).astype(np.uint8), mode="P")
        numbers.putpalette(list(range(256)) * 3)
        numbers.save(folder / "downloads" / scene / "materials_mip7.png")
    return folder


def test_a_tree_is_prepared_once_and_read_back(tree, tmp_path):
    multi_illumination.prepare(tree, 7, tmp_path)
    for part, scene in (("train", "attic"), ("validation", "main_drylab1"), ("test", "everett_kitchen2")):
        found = multi_illumination.load(7, part, data_dir=tmp_path)
        assert found.image.shape == (1, 25 * 31, 46, 3) and len(found.info.classes) == 36
        levels = found.image.reshape(25, -1).mean(axis=1)
        np.testing.assert_allclose(levels, 10 * np.arange(25), atol=1.5)
        with Image.open(tree / "downloads" / scene / "materials_mip7.png") as picture:
            numbers = np.asarray(picture)
        at = tuple(np.argwhere(numbers == 36)[0])
        assert found.info.classes[found.label[0][at]] == "Brick"
    with pytest.raises(ValueError, match=r"experiments\.data\.prepare multi_illumination/mip6"):
        multi_illumination.load(6, "train", data_dir=tmp_path)


def test_what_is_wrong_is_said(tree, tmp_path):
    with pytest.raises(ValueError, match=r"holds no SCENE/dir_0_mip3\.jpg"):
        multi_illumination.prepare(tree, 3, tmp_path)
    with pytest.raises(ValueError, match=r"holds none of materials_mip6\.png"):
        multi_illumination.materials(tree / "downloads" / "attic", 6)
    with pytest.raises(ValueError, match="a material is 9, must be below 6"):
        lit.lit(
            np.zeros((1, 2, 3, 3, 3), np.uint8),
            np.full((1, 3, 3), 9, np.uint8),
            name="",
            split="test",
            classes=lit_scenes.MATERIALS,
        )
    with pytest.raises(ValueError, match="part is 'all'"):
        lit_scenes.split("all")
