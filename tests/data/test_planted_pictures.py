"""Pictures on textures, of one colour each: what lies where is read off the pixels."""

import numpy as np
import pytest

from robustjax import data
from robustjax.data import placing
from robustjax.data.planted_pictures import PictureRecipe, planted_pictures

CLASSES, EACH, PHOTOGRAPHS = 4, 10, 10
RECIPE = PictureRecipe(size=12, object=6, correlation=0.8)


def of_one_colour(values, side):
    return np.broadcast_to(np.asarray(values, np.uint8)[:, None, None], (len(values), side, side, 3)).copy()


@pytest.fixture(scope="module")
def pictures():
    """Red says the class, green and blue are 200."""
    label = np.arange(CLASSES * EACH) % CLASSES
    values = [[10 * k + 5, 200, 200] for k in label]
    return data.of_arrays(of_one_colour(values, 8), label, name="pictures", classes=tuple("abcd"))


@pytest.fixture(scope="module")
def textures():
    """Green says the class, blue which photograph of it."""
    label = np.repeat(np.arange(CLASSES + 1), PHOTOGRAPHS)
    values = [[0, 10 * k + 5, i % PHOTOGRAPHS] for i, k in enumerate(label)]
    return data.of_arrays(of_one_colour(values, 16), label, name="textures", classes=tuple("vwxyz"))


def made(pictures, textures, variant="original", split="test", **settings):
    found = planted_pictures(RECIPE, pictures, textures, split=split, variant=variant, **settings)
    rows = np.arange(len(found))
    return found, found.image(rows), found.mask(rows)


def test_objects_lie_in_their_masks_on_textures_of_their_places(pictures, textures):
    found, image, mask = made(pictures, textures)
    assert mask.sum(axis=(1, 2)).tolist() == [36] * 40 and len(np.unique(mask, axis=0)) > 10
    label = pictures.label[found.index]
    assert found.label.tolist() == label.tolist()
    for one, cover, k, place in zip(image, mask, found.label, found.place, strict=True):
        assert (one[cover] == [10 * k + 5, 200, 200]).all()
        assert (one[~cover][:, 1] == 10 * place + 5).all()
    # Eight of ten of each class are on their own texture, the others not all on one.
    own = found.place == found.label
    assert [int(own[found.label == k].sum()) for k in range(CLASSES)] == [8] * CLASSES
    assert all(len(set(found.place[(found.label == k) & ~own])) == 2 for k in range(CLASSES))
    assert found.places == tuple("vwxy")


def test_photographs_of_training_are_not_those_of_testing(pictures, textures):
    seen = {}
    for split in ("train", "validation", "test"):
        _, image, mask = made(pictures, textures, split=split)
        seen[split] = {int(one[~cover][0, 2]) for one, cover in zip(image, mask, strict=True)}
    assert seen["train"] <= set(range(6)) and seen["validation"] == {6} and seen["test"] <= {7, 8, 9}
    assert len(seen["train"]) > 3 and len(seen["test"]) > 1


def test_variants_differ_in_the_texture_alone(pictures, textures):
    found = {v: made(pictures, textures, v) for v in placing.VARIANTS}
    first, _, mask = found["original"]
    for scenes, _, cover in found.values():
        assert (scenes.label == first.label).all() and (scenes.index == first.index).all()
        assert (cover == mask).all()
    label, place = first.label, {v: scenes.place for v, (scenes, _, _) in found.items()}
    assert (place["mixed_same"] == label).all()
    assert (place["mixed_next"] == (label + 1) % CLASSES).all()
    assert (place["mixed_other"] != label).all()
    assert (found["only_fg"][1][~mask] == 128).all()
    assert (found["no_fg"][1][mask] == 0).all() and (found["only_bg_b"][1][mask] == 0).all()
    assert (found["only_bg_t"][1][..., 1] == (10 * label + 5)[:, None, None]).all()


def test_a_part_is_the_same_whatever_is_asked_for(pictures, textures):
    found, image, _ = made(pictures, textures, count=12)
    again = planted_pictures(RECIPE, pictures, textures, split="test", count=12)
    assert len(found) == 12 and (again.image(np.array([7, 3])) == image[[7, 3]]).all()
    other = planted_pictures(RECIPE, pictures, textures, split="test", count=12, seed=1)
    assert (other.index != found.index).any()


def test_what_is_refused(pictures, textures):
    with pytest.raises(ValueError, match=r"object is 12, must be in 1\.\.11"):
        PictureRecipe(size=12, object=12)
    with pytest.raises(ValueError, match=r"correlation is 1\.5"):
        PictureRecipe(correlation=1.5)
    with pytest.raises(ValueError, match="textures have 16 x 16 pixels, must have at least 32"):
        planted_pictures(PictureRecipe(), pictures, textures, split="test")
    with pytest.raises(ValueError, match="split is 'tests'"):
        planted_pictures(RECIPE, pictures, textures, split="tests")
    few = data.of_arrays(textures.image[:20], textures.label[:20], name="few", classes=tuple("vw"))
    with pytest.raises(ValueError, match="too few textures of class 2"):
        planted_pictures(RECIPE, pictures, few, split="test")
    grey = data.of_arrays(pictures.image[..., :1], pictures.label, name="grey", classes=tuple("abcd"))
    with pytest.raises(ValueError, match=r"pictures are \[40, 8, 8, 1\], must be \[n h w 3\]"):
        planted_pictures(RECIPE, grey, textures, split="test")
