"""Pictures show what they were given: read back, pixel by pixel where it counts."""

import io

import matplotlib.image
import numpy as np
import pytest

from robustjax.runtime import bar_charts, figures, image_grids, subplots


def pixels(png: bytes) -> np.ndarray:
    return matplotlib.image.imread(io.BytesIO(png), format="png")[..., :3]


def colours(png: bytes) -> set[tuple[int, ...]]:
    flat = (pixels(png).reshape(-1, 3) * 255).round().astype(int)
    found, count = np.unique(flat, axis=0, return_counts=True)
    return {tuple(map(int, colour)) for colour, n in zip(found, count, strict=True) if n > 200}


def plain(colour) -> np.ndarray:
    return np.broadcast_to(np.asarray(colour, np.float32), (6, 6, 3))


def test_a_grid_has_its_images_where_they_belong():
    red, green, blue, grey = (plain(c) for c in ((1, 0, 0), (0, 1, 0), (0, 0, 1), (0.5, 0.5, 0.5)))
    image = pixels(image_grids.grid([[red, green, blue], [grey, red]]))
    height, width = image.shape[:2]
    assert width == pytest.approx((0.1 + 3 * 0.95) * 200, abs=2)
    cell = 0.95 * 200

    def centre(i, j):
        return image[int((i + 0.5) * cell), int(0.1 * 200 + (j + 0.5) * cell)]

    for i, j, colour in [
        (0, 0, (1, 0, 0)),
        (0, 1, (0, 1, 0)),
        (0, 2, (0, 0, 1)),
        (1, 1, (1, 0, 0)),
        (1, 2, (1, 1, 1)),
    ]:
        np.testing.assert_allclose(centre(i, j), colour, atol=0.01)
    np.testing.assert_allclose(centre(1, 0), 0.5, atol=0.01)
    assert height == pytest.approx(2 * cell + 0.05 * 200, abs=3)


def test_labels_and_captions_make_room_and_ink():
    images = np.full((2, 3, 5, 5, 1), 0.5)
    bare = pixels(image_grids.grid(images))
    full = pixels(
        image_grids.grid(
            images, rows=["a", "long label"], columns=["x", "y", "z"], captions=[["3 → 8"] * 3], title="All"
        )
    )
    assert full.shape[0] > bare.shape[0] and full.shape[1] > bare.shape[1]
    assert (full < 0.2).all(-1).sum() > 300 > (bare < 0.2).all(-1).sum()
    wide = pixels(image_grids.grid(np.zeros((1, 30, 4, 4, 1)), rows=["label"]))
    assert wide.shape[1] == pytest.approx(figures.WIDTH * 200, abs=2)


def test_a_difference_is_amplified_around_grey():
    before = np.full((1, 4, 4, 3), 0.5, np.float32)
    after = before.copy()
    after[:, 0, :, :] += 0.1
    after[:, 1, :, :] -= 0.05
    found = colours(image_grids.attacked(before, after))
    # The gain is 0.5 / 0.1 = 5: 0.5 + 5 * 0.1 = 1, 0.5 - 5 * 0.05 = 0.25, and 0.5 where nothing changed.
    for level in (0.6, 0.45, 0.5, 1.0, 0.25):
        assert any(abs(c[0] / 255 - level) < 0.01 and c[0] == c[1] == c[2] for c in found), level
    with pytest.raises(ValueError, match=r"found has shape \(1, 4, 4, 3\)"):
        image_grids.attacked(before[..., :1], after)


def rgb(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))


@pytest.mark.slow
def test_curves_have_a_colour_each_and_bands():
    x = np.linspace(0, 8, 9)
    band = (50 - x, 40 - x, 60 - x)
    with_band = figures.curves(x, {"a": band, "b": 90 - x}, xlabel="ε", ylabel="%", limits=(0, 100))
    without = figures.curves(x, {"a": band[0], "b": 90 - x}, xlabel="ε", ylabel="%", limits=(0, 100))
    assert {rgb(figures.COLOURS[0]), rgb(figures.COLOURS[1])} <= colours(with_band)
    faint = np.array([255 - 0.16 * (255 - c) for c in rgb(figures.COLOURS[0])])

    def has_band(png):
        return any(np.abs(faint - colour).max() < 1.5 for colour in colours(png))

    assert has_band(with_band) and not has_band(without)


def test_training_draws_one_picture_per_number():
    measured = [{"step": i, "loss": 1 / (i + 1), "vector": [1, 2]} for i in range(30)]
    measured[10]["valid"] = "nan"
    one, two = (
        pixels(figures.training(measured, names=["loss"])),
        pixels(figures.training(measured, title="Both")),
    )
    assert one.shape[1] == two.shape[1] and rgb(figures.COLOURS[0]) in colours(figures.training(measured))
    dark = np.asarray((two < 0.3).all(-1))
    assert dark[:, : two.shape[1] // 2].any() and dark[:, two.shape[1] // 2 :].any()
    with pytest.raises(ValueError, match="nothing was measured"):
        figures.training([{"step": 0}])


def test_roc_is_square():
    t = np.linspace(0, 1, 50)
    png = figures.roc({"msp": (t, t**0.3), "attacked": (t, t**2)}, title="OOD")
    assert {rgb(figures.COLOURS[0]), rgb(figures.COLOURS[1])} <= colours(png)


@pytest.mark.parametrize(
    "settings", [{"rows": ["a", "b"]}, {"columns": ["a", "b", "c"]}, {"captions": [["a"], ["b"]]}]
)
def test_more_labels_than_images_are_an_error(settings):
    with pytest.raises(ValueError, match="must be at most the 1 rows and 2 columns"):
        image_grids.grid(np.zeros((1, 2, 4, 4, 1)), **settings)
    with pytest.raises(ValueError, match="images is empty"):
        image_grids.grid([])


NAMES = ("$\\frac{", "price $5", "US$ and CA$", "猫", "a_b^c", "\\alpha", "한국", "<b>&amp;")


@pytest.mark.slow
@pytest.mark.filterwarnings("error")  # of a missing glyph matplotlib warns
def test_names_from_data_are_drawn_as_they_are():
    lines = {name: np.arange(3.0) for name in NAMES}
    one = (50.0, 40.0, 60.0)
    images = np.zeros((1, len(NAMES), 4, 4, 1))
    drawn = [
        image_grids.grid(images, rows=NAMES[:1], columns=NAMES, captions=[NAMES], title=NAMES[0]),
        figures.curves(np.arange(3.0), lines, xlabel=NAMES[0], ylabel=NAMES[1], title=NAMES[2]),
        figures.training([{"step": 1, NAMES[0]: 1.0}], title=NAMES[3]),
        figures.roc({name: ([0, 1], [0, 1]) for name in NAMES}, title=NAMES[3]),
        bar_charts.bars(NAMES, {name: [one] * len(NAMES) for name in NAMES}, ylabel=NAMES[0], title=NAMES[3]),
        subplots.subplot_grid(
            [
                subplots.Subplot(
                    NAMES[3], {n: subplots.Line([0, 1], [0, 1]) for n in NAMES}, NAMES[0], NAMES[0]
                )
            ],
            title=NAMES[0],
        ),
    ]
    assert all(picture.startswith(b"\x89PNG") for picture in drawn)


def test_a_pair_of_dollars_is_no_mathematics():
    # Typeset as mathematics the two dollars vanish; as text they take as much room as any two letters.
    def ink(text: str) -> int:
        return int((pixels(image_grids.grid(np.ones((1, 1, 9, 9, 1)), columns=[text])) < 0.5).sum())

    assert ink("$xx$") > ink("xx") + 30


def test_what_the_font_lacks_is_written_as_its_code():
    assert figures.shown("Ä3 → 8 $ 猫\n") == "Ä3 → 8 $ \\u732b\n"
    assert figures.shown("\udc80") == "\\udc80"  # of a file name that is no UTF-8


def test_a_logarithmic_axis_has_plain_numbers():
    with figures.canvas(3, 3) as (figure, png):
        axes = figure.add_subplot()
        axes.plot([0.01, 10], [0, 1])
        figures.log_axis(axes)
        png()
        assert {"0.01", "0.1", "1", "10"} <= {label.get_text() for label in axes.get_xticklabels()}
