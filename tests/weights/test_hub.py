"""Models of the Hugging Face hub by short name or id: the cache, downloads, and what is refused. Nothing is fetched."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import errors
from safetensors.torch import save_file

from detrkit.errors import WeightsError
from detrkit.inference import Detector
from detrkit.models.checkpoints import load_weights, write_huggingface
from detrkit.models.checkpoints.hub import cached, hub_id_of

from .small import small_weights

HUB_ID = "ustc-community/dfine-nano-coco"
"""What `dfine_n` means. The tests put a small DETR under it."""
COMMIT = "0" * 40


class Hub:
    """A hub with folders instead of repositories, and a cache as that of huggingface_hub."""

    def __init__(self, repositories: Path, cache: Path) -> None:
        self.repositories, self.cache = repositories, cache
        self.asked: list[list[str]] = []
        """The patterns of each call."""
        self.failure: Exception | None = None

    def snapshot_download(self, repo_id: str, *, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        self.asked.append(allow_patterns)
        if self.failure:
            raise self.failure
        repository = self.repositories / repo_id
        snapshot = self.snapshot(repo_id)
        for path in repository.rglob("*"):
            name = path.relative_to(repository).as_posix()
            expected = any(fnmatch(name, each) for each in allow_patterns)
            if path.is_file() and expected and not any(fnmatch(name, each) for each in ignore_patterns):
                shutil.copy(path, snapshot / name)
        return str(snapshot)

    def snapshot(self, repo_id: str) -> Path:
        """The folder of a model in the cache, made if it is missing."""
        folder = self.cache / f"models--{repo_id.replace('/', '--')}"
        for each in ("refs", f"snapshots/{COMMIT}"):
            (folder / each).mkdir(parents=True, exist_ok=True)
        (folder / "refs" / "main").write_text(COMMIT)
        return folder / "snapshots" / COMMIT


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub = Hub(tmp_path / "repositories", tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub.cache))
    monkeypatch.setattr("huggingface_hub.snapshot_download", hub.snapshot_download)
    monkeypatch.chdir(tmp_path)
    return hub


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small DETR, which nobody changes."""
    folder = tmp_path_factory.mktemp("whole")
    write_huggingface(small_weights(), folder)
    return folder


@pytest.fixture
def publish(hub: Hub, whole: Path) -> Callable[..., Path]:
    """Put a small DETR on the hub, with code and other files beside it, which must stay there."""

    def publish(hub_id: str = HUB_ID) -> Path:
        folder = hub.repositories / hub_id
        shutil.copytree(whole, folder)
        for name in ("modeling.py", "README.md", "pytorch_model.bin", "onnx/model.safetensors", "training_args.bin"):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text("not to be fetched")
        return folder

    return publish


@pytest.mark.parametrize("name", ["dfine_n", HUB_ID])
def test_a_model_is_fetched_once_and_without_code(hub: Hub, publish: Callable[..., Path], name: str) -> None:
    publish()
    weights = load_weights(name)
    assert weights.source == name
    assert weights.categories.names == ("cat", "dog", "bird")
    names = {path.name for path in hub.snapshot(HUB_ID).iterdir()}
    assert names == {"config.json", "preprocessor_config.json", "model.safetensors"}
    asked = len(hub.asked)
    again = load_weights(name)
    assert len(hub.asked) == asked  # the cache needs no hub
    assert torch.equal(again.state_dict["class_embed.weight"], weights.state_dict["class_embed.weight"])


def test_a_cache_filled_elsewhere_needs_no_hub(hub: Hub, whole: Path) -> None:
    shutil.copytree(whole, hub.snapshot(HUB_ID), dirs_exist_ok=True)
    hub.failure = RuntimeError("asked the hub")
    assert load_weights("dfine_n").source == "dfine_n"
    detector = Detector.load(HUB_ID, device="cpu")
    assert detector.categories.names == ("cat", "dog", "bird")
    assert hub.asked == []


def test_a_real_cache_serves_the_command_line_offline(tmp_path: Path, whole: Path) -> None:
    """As huggingface_hub lays it out: snapshots are links to blobs; nothing is replaced by the tests."""
    folder = tmp_path / "hub" / "models--PekingU--rtdetr_r18vd"
    snapshot = folder / "snapshots" / COMMIT
    for each in (snapshot, folder / "refs"):
        each.mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    shutil.copytree(whole, folder / "blobs")
    for path in (folder / "blobs").iterdir():
        (snapshot / path.name).symlink_to(path)
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    for name, status, words in (("rtdetr_r18", 0, "3 classes to out.pth"), ("dfine_n", 2, "HF_HUB_OFFLINE is set")):
        command = [sys.executable, "-m", "detrkit", "convert", name, "out.pth"]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == status, done.stderr
        assert words in done.stdout + done.stderr


def test_the_pickled_file_is_fetched_only_without_safetensors(hub: Hub, publish: Callable[..., Path]) -> None:
    folder = publish()
    (folder / "model.safetensors").unlink()
    torch.save(small_weights().state_dict, folder / "pytorch_model.bin")
    config = json.loads((folder / "config.json").read_text())
    with pytest.raises(WeightsError):  # whose keys are ours, not those of transformers
        load_weights("dfine_n")
    assert config["model_type"] == "detr"
    assert hub.asked[-1][-1] == "pytorch_model.bin"
    assert (hub.snapshot(HUB_ID) / "pytorch_model.bin").is_file()


def test_shards_are_fetched_with_their_index(hub: Hub, publish: Callable[..., Path]) -> None:
    folder = publish()
    shard(folder)
    assert load_weights("dfine_n").categories.names == ("cat", "dog", "bird")
    assert len(list(hub.snapshot(HUB_ID).glob("model-*.safetensors"))) == 2


def shard(folder: Path) -> None:
    """Split model.safetensors into two files with an index."""
    from detrkit.models.checkpoints.safe import read_safetensors

    tensors = list(read_safetensors(folder / "model.safetensors").items())
    (folder / "model.safetensors").unlink()
    places = {}
    for number, part in enumerate((tensors[::2], tensors[1::2]), 1):
        name = f"model-0000{number}-of-00002.safetensors"
        save_file(dict(part), folder / name)
        places |= {key: name for key, _ in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


@pytest.mark.parametrize("name", ["dfine_n", HUB_ID])
@pytest.mark.parametrize("offline", [False, True])
def test_without_a_network_the_message_says_how_to_fetch(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, name: str, offline: bool
) -> None:
    hub.failure = errors.LocalEntryNotFoundError("Cannot find an appropriate cached snapshot folder")
    hub.failure.__cause__ = ConnectionError("[Errno -3] Temporary failure in name resolution")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    sentence = refused(name)
    folder = "dfine_n" if name == "dfine_n" else "dfine-nano-coco"
    assert sentence.startswith(f"expected {'dfine_n (' if name == 'dfine_n' else 'a file, a folder or a hub model '}")
    assert f"hf download {HUB_ID} --include " in sentence
    assert sentence.endswith(f"--local-dir {folder}; then copy that folder here and give weights {folder}")
    assert ("HF_HUB_OFFLINE is set" if offline else "ConnectionError: [Errno -3]") in sentence


def test_a_folder_fetched_by_that_command_can_be_named(hub: Hub, publish: Callable[..., Path]) -> None:
    shutil.copytree(publish(), "dfine-nano-coco")
    assert load_weights("dfine-nano-coco").source == "dfine-nano-coco"
    assert hub.asked == []


def test_a_half_filled_cache_is_completed_or_refused(hub: Hub, publish: Callable[..., Path]) -> None:
    publish()
    shutil.copy(hub.repositories / HUB_ID / "config.json", hub.snapshot(HUB_ID))
    assert cached(HUB_ID) is None
    blobs = hub.snapshot(HUB_ID).parents[1] / "blobs"
    blobs.mkdir()
    (blobs / "abc.incomplete").write_bytes(bytes(1234))
    hub.failure = errors.LocalEntryNotFoundError("no connection")
    assert (
        "found only a part of it in the hub's cache (config.json and an unfinished download of 1,234 bytes "
        "(abc.incomplete)), and the hub cannot be reached" in refused("dfine_n")
    )
    hub.failure = None
    assert load_weights("dfine_n").categories.names == ("cat", "dog", "bird")


def http_error(kind: type[Exception]) -> Exception:
    """An error of the hub, without the response of the HTTP library, which differs between versions."""
    error = kind.__new__(kind)
    Exception.__init__(error, "the hub said no")
    return error


def test_gated_and_unknown_ids(hub: Hub) -> None:
    hub.failure = http_error(errors.GatedRepoError)
    sentence = refused("owner/secret")
    assert "found a gated model; ask for access at https://huggingface.co/owner/secret" in sentence
    assert "`hf auth login`" in sentence
    hub.failure = http_error(errors.RepositoryNotFoundError)
    assert "did you mean" not in refused("owner/nonsense")
    assert f"nor a public model of that id on the Hugging Face hub; did you mean {HUB_ID}?" in refused(
        "ustc-community/dfine_nano_coco"
    )


@pytest.mark.parametrize(
    ("name", "near"), [("dfine-n", "dfine_n"), ("D-FINE-N", "dfine_n"), ("rtdetrv2r50", "rtdetrv2_r50")]
)
def test_names_nearly_right(hub: Hub, name: str, near: str) -> None:
    assert f"did you mean {near}?" in refused(name)
    assert hub.asked == []


def test_an_architecture_without_weights(hub: Hub) -> None:
    assert "found detrkit_l, a named model without published ones; train it with model detrkit_l" in refused(
        "detrkit_l"
    )


def test_paths_are_not_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    for path in (
        "runs/x",
        "mine/best",
        "other/best.ckpt",
        "a/b/c",
        "./a/b",
        "/a/b",
        "../b",
        "nowhere",
        "a/b.onnx",
        "a/b--c",
        "a/b.",
    ):
        assert hub_id_of(path) is None, path
    assert hub_id_of("owner/name-v1.5_x") == "owner/name-v1.5_x"


CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "classification": (
        {"model_type": "resnet", "architectures": ["ResNetForImageClassification"]},
        r"found an image classification model \(ResNetForImageClassification\)",
    ),
    "segmentation": (
        {"model_type": "segformer", "architectures": ["SegformerForSemanticSegmentation"]},
        "found a semantic segmentation model",
    ),
    "depth": ({"model_type": "dpt", "architectures": ["DPTForDepthEstimation"]}, "found a depth estimation model"),
    "text": ({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}, "found a language model"),
    "open vocabulary": (
        {"model_type": "owlvit", "architectures": ["OwlViTForZeroShotObjectDetection"]},
        "found a detector of objects that a text describes",
    ),
    "timm": (
        {"architecture": "resnet18", "num_classes": 1000, "pretrained_cfg": {}},
        "found a backbone of timm; give it as backbone timm:NAME, or choose a detector",
    ),
    "other software": (
        {"HybridEncoder": {}, "DEIMTransformer": {}},
        r"other software \(HybridEncoder, DEIMTransformer\)",
    ),
    "unknown family": (
        {"model_type": "yolos", "architectures": ["YolosForObjectDetection"]},
        "found YolosForObjectDetection of type yolos",
    ),
}


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("where", ["hub", "folder"])
def test_models_for_other_tasks(hub: Hub, publish: Callable[..., Path], kind: str, where: str) -> None:
    config, words = CONFIGS[kind]
    folder = publish("owner/name")
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=words) as error:
        load_weights("owner/name" if where == "hub" else folder)
    assert "\n" not in str(error.value)
    if where == "hub" and kind != "unknown family":
        assert hub.asked == [["config.json", "preprocessor_config.json"]]  # no weights for nothing
        assert "owner/name" in str(error.value)


def test_a_repository_without_a_config(hub: Hub, publish: Callable[..., Path]) -> None:
    (publish("owner/name") / "config.json").unlink()
    sentence = refused("owner/name")
    assert "under the id owner/name, found no config.json on the hub or in " in sentence
    assert "hf download owner/name " in sentence


def test_a_repository_without_weights(hub: Hub, publish: Callable[..., Path]) -> None:
    folder = publish("owner/name")
    for name in ("model.safetensors", "pytorch_model.bin"):
        (folder / name).unlink()
    assert "found config.json, preprocessor_config.json on the hub or in " in refused("owner/name")


def lacks_weights(folder: Path) -> str:
    (folder / "model.safetensors").unlink()
    return "found config.json, preprocessor_config.json; download the model again"


def lacks_a_shard(folder: Path) -> str:
    shard(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()
    return (
        r"found 1 of the 2 files that model.safetensors.index.json lists, without model-00002-of-00002.safetensors; "
        "download the model again"
    )


def unfinished(folder: Path) -> str:
    (folder / "model.safetensors").unlink()
    (folder / ".cache/huggingface/download").mkdir(parents=True)
    (folder / ".cache/huggingface/download/xyz.incomplete").write_bytes(bytes(2048))
    return r"and an unfinished download of 2,048 bytes \(xyz.incomplete\); download the model again"


def pointer(folder: Path) -> str:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 2\n")
    return "found a git-lfs pointer in place of the file itself; run `git lfs pull` in its folder"


def other_formats(folder: Path) -> str:
    (folder / "model.safetensors").unlink()
    (folder / "tf_model.h5").touch()
    return "found config.json, preprocessor_config.json, tf_model.h5; download the model again"


def empty(folder: Path) -> str:
    shutil.rmtree(folder)
    folder.mkdir()
    return "found an empty folder; name the folder that has them"


def something_else(folder: Path) -> str:
    (folder / "config.json").unlink()
    (folder / "model.safetensors").rename(folder / "weights.h5")
    return "found preprocessor_config.json, weights.h5; name the folder that has them"


@pytest.mark.parametrize(
    "spoil", [lacks_weights, lacks_a_shard, unfinished, pointer, other_formats, empty, something_else]
)
def test_folders_that_are_not_whole(tmp_path: Path, whole: Path, spoil: Callable[[Path], str]) -> None:
    shutil.copytree(whole, tmp_path / "w")
    with pytest.raises(WeightsError, match=spoil(tmp_path / "w")) as error:
        load_weights(tmp_path / "w")
    assert "\n" not in str(error.value)


def refused(name: str) -> str:
    """The sentence with which a name is refused."""
    with pytest.raises(WeightsError) as error:
        load_weights(name)
    assert "\n" not in str(error.value)
    return str(error.value)
