"""A cache of decoded images changes nothing but the time; and that time is counted."""

import multiprocessing
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from detrkit.config.train import TrainConfig
from detrkit.data import dataset as dataset_module
from detrkit.data.dataset import DetectionDataset
from detrkit.data.decode import cache as cache_module
from detrkit.data.decode.cache import ImageCache
from detrkit.data.loader import collate, train_loader
from detrkit.data.records import Split
from detrkit.data.transforms.augment import Augment
from detrkit.data.transforms.resize_crop import Transform, eval_transform, train_transform
from detrkit.errors import ConfigError
from detrkit.structures import Batch, Target
from detrkit.training import loaders
from detrkit.training.announcements import waiting_advice
from detrkit.training.loaders import describe_cache, make_caches
from tests.data.conftest import CATEGORIES

MIXED = Augment(
    mosaic=0.5, mixup=0.5, zoom_out=0.3, iou_crop=0.3, color_jitter=0.5, vertical_flip=0.5, multi_scale=0.25
)
ONE = 3 * 60 * 40


def sizes(split: Split) -> list[tuple[int, int]]:
    return [(image.height, image.width) for image in split.images]


def made(split: Split, cache: ImageCache | None, transform: Transform | None = None) -> DetectionDataset:
    transform = transform or train_transform("detr", 64)
    augment = Augment() if transform.augmentation == "none" else MIXED
    return DetectionDataset(split, CATEGORIES, transform, seed=3, augment=augment, cache=cache)


def same(a: Batch, b: Batch) -> bool:
    return torch.equal(a.images, b.images) and all(
        s["noise_seed"] == t["noise_seed"] and torch.equal(s["boxes"], t["boxes"]) and torch.equal(s["area"], t["area"])
        for s, t in zip(a.targets, b.targets, strict=True)
    )


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that this process decodes, as they are decoded."""
    files: list[str] = []
    read = dataset_module.read_image
    monkeypatch.setattr(dataset_module, "read_image", lambda path, *range, **kwargs: files.append(path) or read(path))
    return files


@pytest.mark.parametrize("limit", [10**9, 5 * ONE, 0])
def test_the_same_images_with_and_without(split: Split, limit: int, decoded: list[str]) -> None:
    cache = ImageCache(sizes(split), limit)
    plain, kept = made(split, None), made(split, cache)
    for epoch in range(4):
        for k in range(11):
            (one_image, target), (image, expected) = kept[epoch, k], plain[epoch, k]
            assert torch.equal(one_image, image)
            assert torch.equal(target["boxes"], expected["boxes"])
            one_image.zero_()  # whoever has it may write to it
    decoded.clear()
    for k in range(11):
        kept[5, k]
    held = {str(image.path) for image in split.images[: cache.count]}
    assert not held & set(decoded)
    assert bool(decoded) == (cache.count < 11)


def test_images_that_are_handed_on_as_they_are_belong_to_the_taker(split: Split) -> None:
    images = [image for image in split.images if (image.height, image.width) == (48, 48)]
    dataset = made(replace(split, images=images), ImageCache([(48, 48)] * len(images), 10**9), eval_transform(48))
    first = dataset[0][0]
    again = dataset[0][0]  # from the cache
    assert torch.equal(first, again)
    again.zero_()
    assert torch.equal(dataset[0][0], first)


def test_memory_is_bounded_and_nothing_is_thrown_out(split: Split) -> None:
    for limit in (0, ONE - 1, ONE, 3 * ONE + 5, 10**9):
        cache = ImageCache(sizes(split), limit)
        assert cache.nbytes <= limit
        assert cache._pixels.untyped_storage().nbytes() == cache.nbytes
        assert cache.count == 11 or cache.nbytes + 3 * 60 * 60 > limit
        some_images = [torch.randint(256, (3, h, w), dtype=torch.uint8) for h, w in sizes(split)]
        for k, one_image in enumerate(some_images):
            assert cache.get(k) is None
            cache.put(k, one_image)
        for k, one_image in enumerate(some_images):
            actual = cache.get(k)
            assert torch.equal(actual, one_image) if k < cache.count else actual is None


def test_images_of_another_size_than_listed_are_not_kept() -> None:
    cache = ImageCache([(4, 5)], 100)
    cache.put(0, torch.ones(3, 5, 4, dtype=torch.uint8))
    assert cache.get(0) is None


def test_shared_memory_is_not_filled_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "free_shared_memory", lambda: cache_module.LEFT_FREE + 1000)
    assert ImageCache([(10, 10)] * 5, 10**9, shared=True).nbytes == 300
    assert ImageCache([(10, 10)] * 5, 10**9, shared=False).nbytes == 1500


def test_a_file_that_cannot_be_read_is_not_kept(split: Split, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"gone")
    cache = ImageCache(sizes(split)[:1], 10**9)
    dataset = made(replace(split, images=[replace(split.images[0], path=broken)]), cache, eval_transform(48))
    for _ in range(2):
        with pytest.warns(UserWarning, match="gray image"):
            dataset[0]
    assert cache.get(0) is None


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_fill_one_block_together(split: Split, start: str) -> None:
    if start not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {start} here")
    cache = ImageCache(sizes(split), 8 * ONE, shared=True)
    batches = [[(2, k) for k in range(first, min(first + 3, 11))] for first in range(0, 11, 3)]
    plain = made(split, None)
    expected = [collate([plain[key] for key in batch]) for batch in batches]
    helpers, passes = (2, 2) if start == "fork" else (1, 1)  # to spawn one takes seconds
    for _ in range(passes):  # empty, then filled
        loader = DataLoader(
            made(split, cache),
            batch_sampler=batches,
            num_workers=helpers,
            collate_fn=collate,
            multiprocessing_context=start,
        )
        assert all(same(a, b) for a, b in zip(loader, expected, strict=True))
        assert all(cache.get(k) is not None for k in range(cache.count))  # seen by this process too


def test_resuming_with_a_cache(split: Split) -> None:
    whole = train_loader(made(split, None), batch_size=2, seed=1)
    whole.set_epoch(1)
    expected = list(whole)
    resumed = train_loader(made(split, ImageCache(sizes(split), 6 * ONE)), batch_size=2, seed=1)
    resumed.set_epoch(1, 2)
    assert all(same(a, b) for a, b in zip(resumed, expected[2:], strict=True))


def test_cache_settings_and_their_messages(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    total = sum(3 * h * w for h, w in sizes(split))
    train, val = make_caches(TrainConfig(cache_gb=1.5 * total / 1e9, num_workers=0), split, split)
    assert train.nbytes == total
    assert 0 < val.nbytes <= total / 2
    message = describe_cache(made(split, train), made(split, val))
    assert message == f"all 11 train images and {val.count} of 11 val images decoded once, 0.01 GB"
    train, val = make_caches(TrainConfig(cache_gb=1.0, num_workers=0, devices=2), split, split)
    assert (
        describe_cache(made(split, train), made(split, val))
        == "all 11 train images and all 11 val images decoded once, 0.01 GB"
    )
    train, val = make_caches(TrainConfig(cache_gb=0, num_workers=0), split, split)
    assert (train.count, val.count) == (0, 0)
    assert describe_cache(made(split, train), made(split, val)) == ("no images; each is decoded in every epoch")
    assert make_caches(TrainConfig(num_workers=0), split, split)[0].count == 11
    monkeypatch.setattr(loaders, "MAX_AUTO_CACHE", total + 10)
    assert [cache.count for cache in make_caches(TrainConfig(), split, split)] == [11, 0]
    monkeypatch.setattr(loaders, "MAX_AUTO_CACHE", total - 10)
    few = replace(split, images=split.images[:4])
    assert [cache.count for cache in make_caches(TrainConfig(num_workers=0), split, few)] == [0, 4]
    with pytest.raises(ConfigError, match="cache_gb must be at least 0, found -1"):
        TrainConfig(cache_gb=-1)


class Slow(DetectionDataset):
    """An image takes 20 ms."""

    def __getitem__(self, key: object) -> tuple[torch.Tensor, Target]:
        time.sleep(0.02)
        return super().__getitem__(key)  # type: ignore[arg-type]


def test_the_time_that_a_model_waits_is_counted(split: Split) -> None:
    slow, quick = Slow(split, CATEGORIES, eval_transform(32)), made(split, None, eval_transform(32))
    shares = []
    for dataset, step in ((slow, 0.0), (slow, 0.04), (quick, 0.04)):
        loader = train_loader(dataset, batch_size=2)
        for _ in loader:
            time.sleep(step)
        shares.append(loader.waiting_share)
    assert shares[0] > 0.75
    assert 0.3 < shares[1] < shares[0]
    assert shares[2] < 0.4
    assert waiting_advice([{"loader_share": 0.1, "step": 40}, {"epoch": 2, "step": 80}]) == ""
    shares = [{"loader_share": 0.5, "step": 40}, {"loader_share": 0.3, "step": 80}]
    assert "waited for images in 40% of the time" in waiting_advice(shares)
    assert waiting_advice(shares[:1]) == ""  # too few steps to tell
    assert waiting_advice([]) == ""
    assert "--num_workers" not in waiting_advice(shares, workers=999)
    assert "--cache_gb" not in waiting_advice(shares, all_cached=True)
    assert "cheaper augmentation" in waiting_advice(shares, workers=999, all_cached=True)
