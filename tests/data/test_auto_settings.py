"""What the statistics of a split suggest, on splits whose numbers are known."""

from pathlib import Path

import pytest

from detrkit.data.auto_settings import suggest_settings
from detrkit.data.records import ImageRecord, ObjectRecord, Split
from detrkit.structures import Categories


def split_of(some_images: int, *, size: tuple[int, int], sides: list[float], objects: int = 0) -> Split:
    """Images of (h, w), the first with `objects` objects, the others with one for each of `sides` in pixels."""
    height, width = size
    images = []
    for k in range(some_images):
        own = [sides[0]] * objects if objects and k == 0 else sides
        records = [
            ObjectRecord(100 * k + j, 1, (0.0, 0.0, side, side), None, False, None, "")
            for j, side in enumerate(own, start=1)
        ]
        images.append(ImageRecord(k + 1, Path(f"{k}.png"), f"{k}.png", height, width, records))
    return Split("train", images, Categories((1,), ("bolt",)), "here")


@pytest.mark.parametrize(
    ("fullest", "queries"), [(1, 20), (6, 20), (7, 30), (10, 30), (30, 90), (93, 280), (100, 300), (151, 300)]
)
def test_three_queries_for_each_object_of_the_fullest_image(fullest: int, queries: int) -> None:
    suggested = suggest_settings(split_of(40, size=(300, 400), sides=[40.0], objects=fullest))
    assert suggested.num_queries == queries
    assert suggested.reasons["num_queries"].startswith(f"{queries}: three for each of the {fullest} object")
    assert ("too few" in suggested.reasons["num_queries"]) == (fullest <= 3)
    assert ("cost more" in suggested.reasons["num_queries"]) == (fullest > 100)


@pytest.mark.parametrize(
    ("size", "side", "on_cpu", "on_gpu"),
    [
        ((480, 640), 200, 320, 320),  # large objects: smaller images do
        ((640, 640), 28.5, 352, 640),  # small ones: native pixels where they are affordable
        ((3000, 4000), 100, 480, 800),
        ((3000, 4000), 40, 640, 800),
        ((256, 256), 8, 384, 384),  # tiny ones: half as large again, no more
        ((256, 320), 25, 256, 256),
        ((128, 128), 30, 128, 128),
        ((100, 800), 20, 384, 480),  # long ones: the limit of the longer side decides
        ((1, 50), 1, 64, 64),  # the coarsest level shall have more than one place
    ],
)
def test_small_objects_decide_the_image_size(size: tuple[int, int], side: float, on_cpu: int, on_gpu: int) -> None:
    split = split_of(9, size=size, sides=[side] * 2 + [size[0] * 0.9] * 8)
    assert suggest_settings(split, on_cpu=True).image_size == on_cpu
    assert suggest_settings(split).image_size == on_gpu
    large = split_of(9, size=(480, 640), sides=[20.0] + [300.0] * 30)  # one in thirty does not
    assert suggest_settings(large).image_size == 320


def test_the_reason_for_the_image_size_has_its_numbers() -> None:
    reasons = suggest_settings(split_of(9, size=(640, 800), sides=[32.0]), on_cpu=True).reasons
    assert reasons["image_size"] == (
        "320: the images' own size is 640 in the median, and nine of ten objects are at least 16 pixels large then"
    )


@pytest.mark.parametrize(
    ("some_images", "batch", "steps"),
    [
        (1, 2, 1),
        (26, 2, 13),
        (100, 2, 50),
        (199, 2, 99),
        (200, 4, 50),
        (292, 4, 73),
        (600, 8, 75),
        (999, 16, 62),
        (100_000, 16, 6250),
    ],
)
def test_small_sets_get_small_batches(some_images: int, batch: int, steps: int) -> None:
    split = split_of(1, size=(100, 100), sides=[30.0])
    suggested = suggest_settings(Split("train", split.images * some_images, split.categories, "here"))
    assert suggested.batch_size == batch
    word, many = ("image makes", "") if some_images == 1 else ("images make", "s" if steps > 1 else "")
    assert suggested.reasons["batch_size"] == f"{batch}: {some_images} {word} {steps} step{many} per epoch"


def test_images_without_objects() -> None:
    suggested = suggest_settings(split_of(20, size=(300, 400), sides=[]))
    assert (suggested.num_queries, suggested.image_size, suggested.batch_size) == (20, 288, 2)
    assert suggested.reasons["image_size"] == "288: the images' own size is 300 in the median"


def test_crowd_regions_are_no_objects() -> None:
    split = split_of(20, size=(300, 400), sides=[100.0], objects=50)
    for obj in split.images[0].objects[1:]:
        obj.crowd = True
    assert suggest_settings(split).num_queries == 20
