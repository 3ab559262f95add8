"""A report is one well-formed page that says only what it was given."""

import base64
from html.parser import HTMLParser

import jax.numpy as jnp
import numpy as np
import pytest

from robustjax.runtime import Report
from robustjax.runtime.report import written

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
VOID = {"meta", "img", "link", "br"}


class Page(HTMLParser):
    """Check that tags nest, and collect elements, attributes and text."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)

    def count(self, tag):
        return sum(name == tag for name, _ in self.tags)


def full() -> Report:
    report = Report("Robust <b>accuracy</b> & more", {"attack": {"eps": 0.03}, "name": "</pre><script>"})
    report.section("Results <1>")
    report.text("It is <script>alert('x')</script> & \"quoted\".")
    report.table(
        [
            {"attack": "<clean>", "accuracy": 0.94231, "images": 10000},
            {"attack": "pgd", "accuracy": jnp.float32(0.6)},
        ],
        caption="A & B",
    )
    report.picture(PNG, caption='A "picture" <here>')
    report.scope(attacked=["the <model>"], attacks=["pgd"], not_attacked=[])
    return report


def test_the_page_is_well_formed_and_escapes():
    page = Page(full().html())
    assert page.count("script") == 0 and page.count("b") == 0
    assert "".join(page.texts["h1"]) == "Robust <b>accuracy</b> & more"
    assert "It is <script>alert('x')</script> & \"quoted\"." in page.texts["p"]
    assert "<clean>" in page.texts["td"] and page.texts["figcaption"][0] == "A & B"
    assert '"name": "</pre><script>"' in "".join(page.texts["pre"])
    assert {"the <model>", "pgd", "nothing"} == set(page.texts["li"])


def test_the_page_needs_nothing_from_outside():
    text = full().html()
    page = Page(text)
    assert "http" not in text and "url(" not in text and "@import" not in text
    assert page.count("link") == 0 and page.count("script") == 0
    for tag, attributes in page.tags:
        assert not {"href", "srcset"} & attributes.keys()
        if tag == "img":
            assert attributes["alt"] == 'A "picture" <here>'
            assert base64.b64decode(attributes["src"].removeprefix("data:image/png;base64,")) == PNG


def test_the_header_says_where_it_comes_from():
    import jax

    text = " ".join(Page(full().html()).texts["p"])
    assert f"jax {jax.__version__}" in text and "8 × cpu" in text and "python 3." in text  # noqa: RUF001


def test_numbers_are_aligned_right_with_the_digits_of_their_column():
    page = Page(full().html())
    cells = [attributes.get("class") for tag, attributes in page.tags if tag in ("th", "td")]
    assert cells == [None, "number", "number"] * 3
    assert page.texts["td"] == ["<clean>", "0.9423", "10\u2009000", "pgd", "0.6000", "–"]  # noqa: RUF001


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),  # noqa: RUF001
        (True, "yes"),
        (np.int64(1234567), "1\u2009234\u2009567"),
        (0.000123456, "0.0001235"),
        (jnp.float32(0.1), "0.1"),
        (float("nan"), "nan"),
        ("1e9", "1e9"),
    ],
)
def test_values_are_written_for_readers(value, text):
    assert written(value) == text


def test_writing_leaves_one_whole_file(tmp_path):
    path = full().write(tmp_path / "deep" / "report.html")
    assert path.read_text(encoding="utf-8").endswith("</html>\n")
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]
    full().write(path)
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]


def test_only_png_is_embedded():
    with pytest.raises(ValueError, match="no PNG"):
        Report("r").picture(b"<svg/>", caption="c")


def test_named_pictures_also_lie_beside_the_page(tmp_path):
    report = Report("r")
    report.picture(PNG, caption="c", name="roc")
    report.picture(PNG, caption="d")
    report.write(tmp_path / "run" / "report.html")
    assert [path.name for path in (tmp_path / "run" / "figures").iterdir()] == ["roc.png"]
    assert (tmp_path / "run" / "figures" / "roc.png").read_bytes() == PNG
