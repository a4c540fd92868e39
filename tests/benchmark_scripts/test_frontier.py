"""The frontier: a training keeps to its budget of CPU time, and results are continued, not repeated."""

import io
import json
from pathlib import Path

import pytest
from PIL import Image

import frontier
from detrkit.data.synthetic.generate import make_demo_dataset


@pytest.mark.slow  # half a minute of CPU time is the budget
def test_a_budget_of_cpu_time_is_kept_and_not_spent_twice(tmp_path: Path) -> None:
    data = make_demo_dataset(tmp_path / "data", images=40, size=64)
    arguments = ["--data", str(data), "--minutes", "0.5", "--image_size", "64", "--output_dir", str(tmp_path / "out")]
    frontier.main(arguments)
    (row,) = json.loads((tmp_path / "out" / "results.json").read_text())
    assert 0.3 < row["cpu_minutes"] < 1.2  # with imports and the report
    assert row["epochs"] > 1
    before = (tmp_path / "out" / "results.json").stat().st_mtime_ns
    frontier.main(arguments)
    assert (tmp_path / "out" / "results.json").stat().st_mtime_ns == before


def test_boxes_for_ultralytics_are_centers_and_sizes_as_fractions(tmp_path: Path) -> None:
    data = make_demo_dataset(tmp_path / "data", images=10, size=64)
    val = frontier.write_yolo_data(str(data), tmp_path / "yolo")
    image = next(image for image in val.images if image.objects)
    line = (tmp_path / "yolo" / "labels" / "val" / f"{image.path.stem}.txt").read_text().splitlines()[0].split()
    x0, y0, x1, y1 = image.objects[0].box
    expected = [(x0 + x1) / 2 / image.width, (y0 + y1) / 2 / image.height]
    expected += [(x1 - x0) / image.width, (y1 - y0) / image.height]
    assert [float(value) for value in line[1:]] == pytest.approx(expected, abs=1e-5)
    assert val.categories.ids[int(line[0])] == image.objects[0].category_id


def test_table_and_figure_of_several_sets() -> None:
    rows = [
        {"data": data, "model": model, "minutes": minutes, "seed": 0, "AP": 0.1 * minutes, "AP50": 0.2, "epochs": 3,
         "cpu_minutes": minutes}
        for data in ("bccd", "chess") for model in ("detrkit_n", "yolo11n") for minutes in (1, 2)
    ]  # fmt: skip
    assert frontier.table(rows).count("\n") == 2 + len(rows)
    assert Image.open(io.BytesIO(frontier.draw(rows))).size[0] > 600
