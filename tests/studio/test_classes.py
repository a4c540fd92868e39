"""Classes of the studio: added, renamed, deleted and put back, in the labels, their history, and the page Label."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detrkit.data.formats.detect import open_dataset
from detrkit.data.validation.validate import check_dataset
from tests.inference.conftest import checkpoint, some_images

from .conftest import HARMFUL, Answer, StudioClient, coco_folder, image_folder, page_of, studio_of
from .projects import make_run
from .test_label_browser import wait_saved
from .test_label_page import BOX, labels_of, save

if TYPE_CHECKING:
    from playwright.sync_api import Browser

__all__ = ["checkpoint", "some_images"]


def rename(studio: StudioClient, class_id: int, name: str) -> Answer:
    return studio.send("/api/classes", {"id": class_id, "name": name}, "PUT")


def delete(studio: StudioClient, class_id: int, deleted: bool = True) -> Answer:
    return studio.send("/api/classes/deleted", {"id": class_id, "deleted": deleted}, "PUT")


def objects_of(studio: StudioClient, image: str) -> list[dict[str, Any]]:
    return list(studio.get(f"/api/labels?image={image}").json["objects"])


def test_a_renamed_class_of_the_source_keeps_its_id_and_objects_also_after_a_restart(tmp_path: Path) -> None:
    folder = coco_folder(tmp_path / "set", 3)
    with studio_of(folder) as studio:
        save(studio, "images/0.png", [BOX])
        assert rename(studio, 7, " red  cell ").status == 200
        assert studio.send("/api/classes", {"name": HARMFUL}).json["class"]["id"] == 8  # the old name is free again
    expected = [{"id": 1, "name": "cell"}, {"id": 7, "name": "red cell"}, {"id": 8, "name": HARMFUL}]
    for _ in range(2):
        content = labels_of(folder)
        assert content["categories"] == expected
        assert sorted(row["category_id"] for row in content["annotations"]) == [1, 1, 1, 7, 7]
        with studio_of(folder) as studio:
            assert studio.get("/api/labels?image=images/1.png").json["classes"] == expected
            assert [row["class"] for row in objects_of(studio, "images/1.png")] == [1, 7]
            (folder / "studio_labels/instances_train.json").unlink(missing_ok=True)  # the journal alone is enough
            assert rename(studio, 1, "cell ").status == 200  # no change
            version = studio.get("/api/labels?image=images/2.png").json["version"]
            assert save(studio, "images/2.png", [BOX, {**BOX, "class_id": 7}], version).status == 200
    assert {row["name"] for row in json.loads((folder / "train.json").read_text())["categories"]} == {"cell", HARMFUL}


def test_a_deleted_class_takes_its_objects_out_of_the_labels_and_brings_them_back(tmp_path: Path) -> None:
    folder = coco_folder(tmp_path / "set", 3)
    with studio_of(folder) as studio:
        rows = studio.get("/api/classes").json["classes"]
        assert [(row["objects"], row["images"], row["deleted"]) for row in rows] == [(3, 3, False)] * 2
        save(studio, "images/0.png", [{**BOX, "class_id": 7}, BOX])
        rows = delete(studio, 7).json["classes"]
        assert rows[1] == {"id": 7, "name": HARMFUL, "deleted": True, "objects": 3, "images": 3}
        assert [row["class"] for row in objects_of(studio, "images/0.png")] == [1]
        (kept,) = objects_of(studio, "images/1.png")
        assert kept["keep"] == 0
        listed = studio.get("/api/images").json
        assert [row["id"] for row in listed["classes"]] == [1]
        assert all(row[5] == [1] for row in listed["images"])
        saves = studio.get("/api/history?image=images/0.png").json["saves"]
        assert [len(row["objects"]) for row in saves] == [1]
        # a page that was open before is refused, unless it has taken the object away
        stale = save(studio, "images/0.png", [{**BOX, "class_id": 7, "keep": 0}, {**BOX, "keep": 1}], 1)
        assert "expected a class of the project, found the id 7" in stale.sentence
        assert save(studio, "images/0.png", [{**BOX, "keep": 1}, {**BOX, "box": [0, 0, 9, 9]}], 1).status == 200
        assert [row["box"] for row in objects_of(studio, "images/0.png")] == [[5, 5, 25, 15], [0, 0, 9, 9]]
    content = labels_of(folder)
    assert content["categories"] == [{"id": 1, "name": "cell"}]
    assert [row["category_id"] for row in content["annotations"]] == [1] * 4
    train = check_dataset(open_dataset(folder / "studio_labels", val_fraction=0)).splits["train"]
    assert train.categories.names == ("cell",)
    with studio_of(folder) as studio:
        assert [row["class"] for row in objects_of(studio, "images/1.png")] == [1]
        assert studio.send("/api/classes", {"name": HARMFUL}).json["class"]["id"] == 8
        assert "no other class has" in delete(studio, 7, False).sentence
        rename(studio, 8, "other")
        assert delete(studio, 7, False).status == 200
        assert sorted(row["class"] for row in objects_of(studio, "images/0.png")) == [1, 1, 7]
        (mask,) = (row for row in objects_of(studio, "images/1.png") if row["class"] == 7)
        assert mask["polygons"] == [[30, 20, 70, 20, 70, 50]]


def test_classes_alone_are_changes_to_train_on(tmp_path: Path) -> None:
    folder = coco_folder(tmp_path / "set", 3)
    with studio_of(folder) as studio:
        delete(studio, 7)
        assert studio.get("/api/train/data").json["first"] == "studio_labels"
        assert labels_of(folder)["categories"] == [{"id": 1, "name": "cell"}]


def test_changes_of_classes_that_cannot_be_are_refused_in_a_sentence(tmp_path: Path) -> None:
    folder = coco_folder(tmp_path / "set", 1)
    with studio_of(folder) as studio:
        assert "no other class has, found 'cell'" in rename(studio, 7, "cell").sentence
        assert "found the id 99" in rename(studio, 99, "x").sentence
        assert "found the id 99" in delete(studio, 99).sentence
        assert "printable letters" in rename(studio, 7, " \x07 ").sentence
        assert rename(studio, 7, "").status == 422
        assert len(studio.get("/api/classes").json["classes"]) == 2
    assert not (folder / "studio_labels").exists()


def test_a_split_whose_file_is_older_gets_its_saves_from_the_journal(tmp_path: Path) -> None:
    folder = coco_folder(tmp_path / "set", 4)
    content = json.loads((folder / "train.json").read_text())
    for name, chosen in (("train", {10, 11}), ("val", {12, 13})):
        images = [row for row in content["images"] if row["id"] in chosen]
        rows = [row for row in content["annotations"] if row["image_id"] in chosen]
        (folder / f"{name}.json").write_text(json.dumps({**content, "images": images, "annotations": rows}))
    with studio_of(folder) as studio:
        save(studio, "images/2.png", [BOX])
    older = (folder / "studio_labels/instances_val.json").read_bytes()
    with studio_of(folder) as studio:
        save(studio, "images/2.png", [], 1)
        rename(studio, 1, "new name")
        save(studio, "images/0.png", [BOX])
    (folder / "studio_labels/instances_val.json").write_bytes(older)  # killed between the two
    with studio_of(folder) as studio:
        answer = studio.get("/api/labels?image=images/2.png").json
        assert (answer["version"], answer["objects"]) == (2, [])
        assert answer["classes"][0] == {"id": 1, "name": "new name"}
    assert len(labels_of(folder, "val")["annotations"]) == 2


def test_classes_that_another_program_changed_in_the_coco_file_are_taken_over(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "a", 1)
    with studio_of(folder) as studio:
        for name in ("one", "two"):
            studio.send("/api/classes", {"name": name})
        save(studio, "0.png", [BOX, {**BOX, "class_id": 2}])
    content = labels_of(folder)
    content["categories"] = [{"id": 1, "name": "uno"}, {"id": 5, "name": "five"}]
    content["annotations"].pop()
    (folder / "studio_labels/instances_train.json").write_text(json.dumps(content))
    with studio_of(folder) as studio:
        answer = studio.get("/api/labels?image=0.png").json
        assert answer["classes"] == content["categories"]
        assert [row["class"] for row in answer["objects"]] == [1]
        delete(studio, 2, False)  # what it had is in the journal
        assert [row["class"] for row in objects_of(studio, "0.png")] == [1, 2]


def test_classes_are_renamed_deleted_and_put_back_in_the_page(browser: Browser, tmp_path: Path) -> None:
    folder = coco_folder(tmp_path / "set", 3)
    with studio_of(folder) as studio, page_of(browser, studio, "#/label/images%2F0.png", refusals=True) as page:
        page.get_by_role("heading", name="2 objects").wait_for()
        page.locator(".line").first.click()
        page.keyboard.press("ArrowRight")
        page.get_by_role("button", name="Edit classes").click()
        dialog = page.get_by_role("dialog", name="Classes")
        dialog.get_by_text("3 objects in 3 images").first.wait_for()  # and what was changed is saved
        name = dialog.get_by_label("Name of cell")
        name.fill(HARMFUL)
        page.keyboard.press("Enter")
        dialog.get_by_text("no other class has").wait_for()
        name.fill("<b>blood</b>")
        dialog.get_by_role("button", name="Rename").first.click()
        dialog.get_by_label("Name of <b>blood</b>").wait_for()
        remove = dialog.get_by_role("button", name=f"Delete {HARMFUL}")
        remove.click()
        dialog.get_by_text(f"Delete {HARMFUL} with its 3 objects in 3 images?").wait_for()
        page.keyboard.press("Enter")  # keeps it
        remove.click()
        dialog.get_by_role("button", name="Delete the class").click()
        dialog.get_by_text("deleted, 3 objects in 3 images").wait_for()
        dialog.get_by_role("button", name="Close").click()
        page.get_by_role("heading", name="1 object", exact=True).wait_for()
        assert page.locator(".classes button").all_inner_texts()[0].split("\n")[0] == "<b>blood</b>"
        wait_saved(page)
        page.get_by_role("button", name="Edit classes").click()
        dialog.get_by_role("button", name=f"Put {HARMFUL} back").click()
        remove.wait_for()
        page.keyboard.press("Escape")
        page.get_by_role("heading", name="2 objects").wait_for()
    content = labels_of(folder)
    assert content["categories"] == [{"id": 1, "name": "<b>blood</b>"}, {"id": 7, "name": HARMFUL}]
    assert sorted(row["category_id"] for row in content["annotations"]) == [1, 1, 1, 7, 7, 7]


def test_suggestions_follow_renamed_classes_and_leave_deleted_ones_out(
    tmp_path: Path, checkpoint: Path, some_images: Path
) -> None:
    folder = image_folder(tmp_path / "a", 1)
    make_run(folder / "runs/one", checkpoint)
    wish = {"image": "0.png", "run": "runs/one", "threshold": 0.05}
    with studio_of(folder) as studio:
        before = studio.send("/api/suggest", wish).json
        first = before["objects"][0]["class"]
        rename(studio, first, "other name")
        after = studio.send("/api/suggest", wish).json
        assert after["objects"] == before["objects"]
        assert len(after["classes"]) == len(before["classes"])
        delete(studio, first)
        without = studio.send("/api/suggest", wish).json
        assert first not in {row["class"] for row in without["objects"]}
        assert without["left_out"] == len(before["objects"]) - len(without["objects"]) > 0
