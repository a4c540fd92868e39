"""HTML reports as text: escaped, within their size, and honest about what they leave out."""

import json
import math
import re
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from detrkit.errors import DataError
from detrkit.visualization.html_report.page import MAX_BYTES, Page, render_page, write_page
from detrkit.visualization.html_report.sections import (
    BoxOverlay,
    Cell,
    Chart,
    Charts,
    Column,
    Curve,
    Gallery,
    GalleryImage,
    Interval,
    Matrix,
    Notes,
    Settings,
    Summary,
    Table,
)

HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(1)</script>",
    "</style><style>*{display:none}",
    "\"><svg onload='alert(1)'>",
    "{{ 7 * 7 }} ${alert(1)} --> ]]>",
    "control\x00\x07\x1b[31m\u202edesrever",
    "byte\udcff",
    "שלום مرحبا",
)
GRAY = np.full((60, 80, 3), 128, dtype=np.uint8)


class Elements(HTMLParser):
    """The elements and the text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes.update(name for name, _ in attrs)

    def handle_data(self, data: str) -> None:
        self.text += data


def page_of(name: str) -> Page:
    """A page with a name at every place that has one."""
    return Page(
        name,
        [
            Summary({name: 0.5, "text": name}, name),
            Charts(name, [Chart(name, [Curve(name, [1, 2], [0.1, 0.2]), Curve("other", [1, 2], [0, 1])], name)], name),
            Table(name, [Column(name), Column("AP")], [[name, 0.5]], [name, 0.5], name),
            Matrix(name, [name, "background"], [[1, 2], [3, 0]], name, name, name),
            Gallery(name, [GalleryImage(GRAY, name, [BoxOverlay((1, 2, 30, 40), name, name)], name, group=name)] * 2),
            Settings({name: name}, name),
            Notes([name], name),
        ],
        name,
        name,
    )


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_is_text_wherever_it_stands(name: str) -> None:
    plain, hostile = Elements(render_page(page_of("name"))), Elements(render_page(page_of(name)))
    assert hostile.tags == plain.tags
    assert hostile.attributes == plain.attributes
    assert not {attribute for attribute in hostile.attributes if attribute.startswith("on") or attribute == "style"}
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\u202e\udcff]", hostile.text)


def test_the_data_of_charts_survive_the_way_into_the_page() -> None:
    found = re.findall(r'<script type="application/json">(.*?)</script>', render_page(page_of(HOSTILE[1])))
    data = json.loads(found[0])
    assert data["curves"][0]["name"] == HOSTILE[1]
    assert data["axes"] == [[1, 2]]


def test_the_policy_allows_no_connection_and_no_foreign_script() -> None:
    policy = re.search(r'Content-Security-Policy" content="(.*?)"', render_page(page_of("name")))
    assert policy
    assert "default-src &#39;none&#39;" in policy[1]
    assert "unsafe" not in policy[1]
    assert "http" not in policy[1]


def test_values_are_shown_and_sorted_by_their_number() -> None:
    row: list[Cell] = ["cat", 1234, 0.51234, Interval(0.5, 0.4, 0.6), None, math.nan, np.float32(0.25), np.int64(7)]
    columns = [Column(f"c{k}", digits=2) for k in range(len(row))]
    page = render_page(Page("t", [Table("Table", columns, [row])]))
    cells = [
        (sort, " ".join(re.sub(r"<[^>]+>", " ", text).split()))
        for sort, text in re.findall(r'<td[^>]*?(?:data-sort="([^"]*)")?>(.*?)</td>', page, re.DOTALL)
    ]
    assert cells == [
        ("", "cat"),
        ("1234", "1,234"),
        ("0.51234", "0.51"),
        ("0.5", "0.50 (0.40 to 0.60)"),
        ("", "–"),
        ("", "–"),
        ("0.25", "0.25"),
        ("7", "7"),
    ]


def test_empty_sections_are_left_out() -> None:
    sections = [
        Summary({}),
        Table("Empty table", [Column("a")], []),
        Charts("Empty charts", [Chart("none", [])]),
        Matrix("Empty matrix", [], []),
        Gallery("Empty gallery", []),
        Settings({}),
        Notes([]),
    ]
    assert "<h2" not in render_page(Page("Nothing", sections))


def test_boxes_follow_their_image_and_stay_inside_it() -> None:
    boxes = [
        BoxOverlay((10, 20, 30, 40), "inside"),
        BoxOverlay((-50, -50, 1000, 1000), "larger"),
        BoxOverlay((500, 500, 600, 600), "outside"),
        BoxOverlay((math.nan, 0, 1, 1), "not finite"),
    ]
    image = np.zeros((560, 1120, 3), dtype=np.uint8)
    page = render_page(Page("t", [Gallery("g", [GalleryImage(image, "c", boxes, window=(0, 0, 80, 56))])]))
    rectangles = re.findall(r'class="line" x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"', page)
    scale = 4  # 80 pixels are enlarged to 320
    expected = [(10, 20, 20, 20), (0, 0, 80, 56)]
    assert [tuple(map(float, r)) for r in rectangles] == [tuple(scale * v for v in box) for box in expected]


def test_a_page_stays_below_its_size_and_says_how_much_it_shows(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (600, 600, 3), dtype=np.uint8)
    rows: list[list[Cell]] = [["a long text " * 20, k] for k in range(3000)]
    sections = [
        Table("Findings", [Column("text"), Column("number")], rows, total=5000),
        Gallery("First", [GalleryImage(lambda: noise, f"{k}") for k in range(30)], total=400),
        Gallery("Second", [GalleryImage(lambda: noise, f"{k}") for k in range(30)]),
        Charts("Curves", [Chart("many", [Curve(str(k), range(9999), range(9999)) for k in range(500)])]),
    ]
    path = write_page(tmp_path / "report.html", Page("Large", sections), max_bytes=1_000_000)
    text = path.read_text(encoding="utf-8")
    assert path.stat().st_size < 1_000_000
    assert "of 5,000 rows" in text
    assert "of 400 images" in text
    assert "of 30 images" in text
    assert "of 500 curves" in text
    assert text.count("data:image/jpeg") > 2  # some of both


def test_a_page_of_a_large_data_set_takes_seconds(tmp_path: Path) -> None:
    names = [f"class {k}" for k in range(1200)]
    recall = np.linspace(0, 1, 101)
    sections = [
        Table("Classes", [Column("class"), *(Column(f"c{k}") for k in range(10))], [[n, *[0.5] * 10] for n in names]),
        Matrix("Confusion", names, np.ones((1200, 1200), dtype=int).tolist()),
        Charts("Curves", [Chart("PR", [Curve(n, recall, recall) for n in names])]),
        Gallery("Errors", [GalleryImage(GRAY, n, [BoxOverlay((1, 1, 9, 9), n)] * 100) for n in names[:24]]),
    ]
    start = time.process_time()
    path = write_page(tmp_path / "report.html", Page("Large", sections))
    assert time.process_time() - start < 20  # about 1 s
    assert path.stat().st_size < MAX_BYTES


def test_an_image_that_cannot_be_read_is_an_error_and_leaves_the_old_page(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("old")
    page = Page("t", [Gallery("g", [GalleryImage(tmp_path / "absent.jpg", "c")])])
    with pytest.raises(DataError, match=r"absent\.jpg"):
        write_page(tmp_path / "report.html", page)
    assert (tmp_path / "report.html").read_text() == "old"
