"""A whole run: what it prints, writes and keeps."""

import csv
import json
import shutil

import pytest
import torch
import yaml

from detrkit.config.train import TrainConfig
from detrkit.errors import ConfigError, DataError, MissingExtraError
from detrkit.evaluation.report import write_report
from detrkit.models import build_model
from detrkit.training import run_training, train
from detrkit.training.setup import choose_folder, find_processes

pytestmark = pytest.mark.timeout(240)


def test_the_run_folder_and_the_printed_lines(tiny, capsys, monkeypatch):
    monkeypatch.setattr("detrkit.training.final_report.write_report", write_report)
    config = tiny(checkpoint_every=1, eval_every=2, epochs=3)
    result = train(config)
    run_dir = result.run_dir
    output = capsys.readouterr().out
    for words in ("CPU", "precision 32", "train 11 images", "parameters", "norm batch; the whole backbone", "lr 0.001"):
        assert words in output
    assert "epoch 3/3" in output

    written = {path.name for path in run_dir.iterdir()}
    assert {"config.yaml", "categories.json", "metrics.csv", "best.ckpt", "last.ckpt", "report"} <= written
    assert {"epoch_0001.ckpt", "epoch_0002.ckpt", "epoch_0003.ckpt", "tensorboard"} <= written
    assert list((run_dir / "tensorboard").iterdir())
    assert TrainConfig.from_yaml(run_dir / "config.yaml") == config
    assert json.loads((run_dir / "categories.json").read_text())[1] == {"id": 7, "name": "green"}
    rows = list(csv.DictReader((run_dir / "metrics.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert [bool(row["val/AP"]) for row in rows] == [False, True, True]  # every second, and the last
    assert result.metrics["AP"] == max(float(row["val/AP"]) for row in rows[1:])
    report = json.loads((run_dir / "report" / "metrics.json").read_text())
    assert report["coco"]["bbox"]["AP"] == pytest.approx(result.metrics["AP"], abs=1e-9)
    page = (run_dir / "report" / "report.html").read_text()
    for part in (
        run_dir.name,
        ">Training curves<",
        '"title": "loss_bbox"',
        ">Class by class<",
        ">lr_backbone<",
        ">0.001<",
    ):
        assert part in page


def test_validation_images_without_objects_have_no_ap(tiny, capsys, tmp_path):
    data = tmp_path / "empty-val"
    shutil.copytree(tiny().data, data)
    listed = json.loads((data / "val.json").read_text())
    (data / "val.json").write_text(json.dumps(listed | {"annotations": []}))
    train(tiny(data=str(data), epochs=1))
    output = capsys.readouterr().out
    assert "AP is undefined, since no validation image has an object" in output
    assert "Best AP" not in output


def test_a_checkpoint_keeps_its_contract(tiny):
    run_dir = train(tiny(epochs=1, ema=0.5)).run_dir
    kept = torch.load(run_dir / "best.ckpt", weights_only=True)
    card = kept["detrkit"]
    assert card["version"] == 1
    assert card["categories"] == [{"id": 3, "name": "red"}, {"id": 7, "name": "green"}]
    assert card["preprocessing"]["image_size"] == 48
    assert TrainConfig.from_dict(card["config"]).lr == 1e-3
    assert "val/AP" in card["metrics"]
    build_model(**card["model_args"]).load_state_dict(kept["model"])
    raw = kept["ema"]["raw_model"]
    assert raw.keys() == kept["model"].keys()
    assert not torch.equal(raw["class_embed.weight"], kept["model"]["class_embed.weight"])  # the moving average


def test_weights_bring_their_architecture(tiny, capsys, tmp_path):
    source = train(tiny(epochs=1)).run_dir
    architecture = ("backbone", "hidden_dim", "nheads", "enc_layers", "dec_layers", "dim_feedforward", "num_queries")
    default = {name: getattr(TrainConfig(), name) for name in architecture}
    config = tiny(weights=str(source), output_dir=str(tmp_path / "tuned"), epochs=1, **default)
    tuned = train(config).run_dir
    output = capsys.readouterr().out
    assert "2 of 2 kept" in " ".join(output.split())
    assert "norm frozen, with the statistics of the loaded weights" in output
    assert yaml.safe_load((tuned / "config.yaml").read_text())["hidden_dim"] == 16


def test_overfit_needs_no_images_to_validate_on(tiny, tiny_data, tmp_path):
    lonely = tmp_path / "lonely"
    shutil.copytree(tiny_data, lonely)
    (lonely / "val.json").unlink()
    content = json.loads((lonely / "train.json").read_text())
    content["images"] = content["images"][:1]
    content["annotations"] = [row for row in content["annotations"] if row["image_id"] == content["images"][0]["id"]]
    (lonely / "train.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"expected val images in .*val_fraction, val_json or more images"):
        train(tiny(data=str(lonely), epochs=1))
    assert train(tiny(data=str(lonely), epochs=1, overfit=1, batch_size=1)).run_dir.is_dir()


def test_overfit_trains_and_evaluates_on_the_same_images(tiny, capsys):
    run_dir = train(tiny(overfit=2, epochs=1)).run_dir
    rows = list(csv.DictReader((run_dir / "metrics.csv").read_text().splitlines()))
    assert rows[-1]["step"] == "4"  # an epoch of one step would be mostly evaluation
    assert "of these only the first 2 of train with objects" in capsys.readouterr().out


def test_the_original_log(tiny):
    run_dir = run_training(tiny(epochs=2), classic_log=True).run_dir
    lines = [json.loads(line) for line in (run_dir / "log.txt").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [0, 1]
    line = lines[0]
    assert line["train_loss_bbox"] == pytest.approx(5 * line["train_loss_bbox_unscaled"])
    assert line["train_loss_bbox_0"] == pytest.approx(5 * line["train_loss_bbox_0_unscaled"])
    scaled = [v for k, v in line.items() if k.startswith("train_loss_") and not k.endswith("_unscaled")]
    assert line["train_loss"] == pytest.approx(sum(scaled), rel=1e-5)
    assert {"train_lr", "train_class_error", "train_cardinality_error_unscaled", "n_parameters"} <= line.keys()
    assert len(line["test_coco_eval_bbox"]) == 12
    assert "test_loss_giou_unscaled" in line


def test_a_new_run_gets_a_number(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = tiny(output_dir="")
    assert str(choose_folder(config)) == "runs/shapes"
    (tmp_path / "runs" / "shapes").mkdir(parents=True)
    assert str(choose_folder(config)) == "runs/shapes-2"
    (tmp_path / "runs" / "shapes" / "last.ckpt").touch()
    assert str(choose_folder(tiny(output_dir="", resume="auto"))) == "runs/shapes"


def test_a_missing_package_is_named(tiny, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="as in detrkit train DATA"):
        train(TrainConfig())
    with pytest.raises(DataError):
        train(tiny(data=str(tmp_path / "nothing")))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="finds no such device"):
        find_processes(TrainConfig(device="mps"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"detrkit\[wandb\]"):
        train(tiny(wandb=True))


def test_processes_that_torchrun_started_are_taken(monkeypatch):
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    actual = find_processes(TrainConfig(device="cpu"))
    assert (actual.devices, actual.num_nodes, actual.world_size) == (2, 2, 4)
    with pytest.raises(ConfigError, match="devices 3, but torchrun started 2"):
        find_processes(TrainConfig(device="cpu", devices=3))


def test_loggers_get_rows_and_steps_under_names_that_do_not_collide(tiny, monkeypatch):
    """MLflow keeps a metric in a file of its name: `step` and `step/loss` could not live together."""
    logged: dict[str, float] = {}
    closed = []

    class Recorder:
        def log_metrics(self, metrics, step):
            logged.update(metrics)

        def close(self, *, failed):
            closed.append(failed)

    monkeypatch.setattr("detrkit.training.process.make_loggers", lambda *_: [Recorder()])
    train(tiny(epochs=1))
    assert {"now/loss", "now/grad_norm", "train/loss", "train/loss_ce_0", "val/AP", "lr", "epoch"} <= logged.keys()
    folders = {name.rpartition("/")[0] for name in logged}
    assert not folders & logged.keys()
    assert closed == [False]


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_the_loggers_of_the_extras(tiny, monkeypatch, name):
    pytest.importorskip(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    run_dir = train(tiny(epochs=1, **{name: True})).run_dir
    assert (run_dir / {"wandb": "wandb", "mlflow": "mlruns"}[name]).is_dir()
