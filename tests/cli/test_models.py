"""`detrkit models`: the table, the filter, and JSON."""

import json

import pytest

from detrkit.models.named_models import list_models

from .conftest import Command


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", f"{tmp_path}/hub")
    monkeypatch.setenv("TORCH_HOME", f"{tmp_path}/torch")


def test_the_table_has_a_row_per_model(detrkit: Command) -> None:
    shown = detrkit("models")
    assert (shown.status, shown.err) == (0, "")
    rows = [line.split() for line in shown.out.splitlines()]
    names = [model.name for model in list_models()]
    assert [row[0] for row in rows[1 : len(names) + 1]] == names
    cells = {row[0]: row[1:] for row in rows if row}
    assert cells["dfine_n"] == ["4", "7", "0.428", "Apache-2.0", "no", "ustc-community/dfine-nano-coco"]
    assert cells["detrkit_n"] == ["2.6", "7.9", "Apache-2.0", "yes", "part", "of", "detrkit"]
    assert cells["detrkit_s"][-1] == "none"
    assert "AP from github.com/Peterande/D-FINE: dfine_n, " in shown.out


def test_a_filter_looks_at_names_ids_and_descriptions(detrkit: Command) -> None:
    for word, names in (("dfine_n", "dfine_n"), ("Roboflow", "rfdetr_n rfdetr_s rfdetr_m rfdetr_l"), ("dab-detr", 0)):
        listed = json.loads(detrkit("models", word, "--json").out)
        assert [each["name"] for each in listed] == (names.split() if names else ["dab_r50", "dn_r50", "dab_detr_r50"])
    assert "AP from" not in detrkit("models", "detrkit_n").out
    sentence = detrkit("models", "dfin_n").sentence
    assert "'dfin_n'; did you mean 'dfine_n'? (`detrkit models` lists all)" in sentence


def test_json_holds_every_field(detrkit: Command) -> None:
    listed = json.loads(detrkit("models", "--json").out)
    assert [each["name"] for each in listed] == [model.name for model in list_models()]
    (row,) = json.loads(detrkit("models", "lwdetr_t", "--json").out)
    assert row == {
        "name": "lwdetr_t", "description": "LW-DETR, tiny.", "published": False, "architecture": False,
        "parameters": 12.1, "gflops": 21.3, "coco_ap": 0.426, "ap_source": "github.com/Atten4Vis/LW-DETR",
        "license": "Apache-2.0", "origin": "AnnaZhang/lwdetr_tiny_60e_coco", "path": None,
    }  # fmt: skip
