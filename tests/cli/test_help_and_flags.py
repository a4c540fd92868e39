"""What the command line offers: every setting is explained, and none appears unnoticed."""

import re
import subprocess
import sys
import time
from dataclasses import MISSING, fields
from typing import Any, get_type_hints

import pytest

from detrkit import __version__
from detrkit.cli import COMMANDS
from detrkit.config.train import TrainConfig

from .conftest import Command

DATA = "box_format data data_format panoptic_dir panoptic_json strict train_images train_json val_images val_json"
DETECTOR = "device dilation image_size nheads weights value_range"
TILES = "tile_overlap tiles"

FLAGS = {
    "demo": "difficulty images minutes output_dir quiet seed size task threshold",
    "check": f"{DATA} html json num_queries quiet",
    "train": f"{DATA} {TILES} "
    "accumulate_grad_batches activation augmentation backbone backbone_norm backbone_weights batch_size "
    "bbox_loss_coef box_refine cache_gb checkpoint_activations checkpoint_every class_loss clip_max_norm "
    "cls_loss_coef color_jitter compile copy_paste dec_layers decoder denoising dense_convs dense_head "
    "dense_loss_coef device devices dice_loss_coef dilation dim_feedforward dn_box_noise dn_label_noise "
    "dn_loss_coef dn_queries dropout ema enc_layers encoder encoder_blocks encoder_expansion eos_coef epochs "
    "eval_every feature_levels final folds frozen_weights giou_loss_coef group_by group_by_aspect hidden_dim "
    "ignore_mask_padding image_size iou_crop k_one2many look_forward_twice lr lr_backbone lr_base_size lr_drop "
    "lr_linear_proj_mult lr_schedule mask_loss_coef masks max_minutes mixup mlflow model monitor mosaic multi_scale "
    "nheads no_aug_epochs no_aux_loss norm_decay num_nodes num_points num_queries num_queries_one2many num_threads "
    "num_workers output_dir overfit patience position_embedding pre_norm precision query_groups query_init "
    "query_nms_iou quiet recipe repeat_threshold resume save_minutes score_refine seed separable_convs "
    "set_cost_bbox set_cost_class set_cost_giou square_resize task "
    "two_stage_head val_fraction value_range vertical_flip wandb warmup_steps weight_decay weights zoom_out",
    "eval": f"{DATA} {DETECTOR} {TILES} batch_size bootstrap detections max_dets max_errors num_workers output_dir "
    "max_overlap panoptic_threshold precision compile quiet split",
    "compare": f"{DATA} batch_size bootstrap compile device max_dets max_images num_workers output_dir "
    "panoptic_threshold precision quiet sources speed_images split tile_overlap tiles",
    "review": f"{DATA} {TILES} batch_size device image_size max_images max_suspects num_workers output_dir quiet "
    "source split value_range",
    "predict": f"{DETECTOR} {TILES} max_overlap batch_size compile cutouts label_map no_images output_dir panoptic "
    "polygon_tolerance polygons precision quiet source threshold top_k write "
    "track zones lines lost_seconds reconnect_seconds max_seconds shard engine num_actors format",
    "merge": "folder output",
    "serve": "batch_size batch_wait compile deadline device host image_size key_file max_images max_megapixels "
    "max_overlap max_per_client max_queue max_upload_mb port precision quiet tile_overlap tiles value_range weights",
    "studio": "folder host no_browser port quiet",
    "plot": "output_dir runs",
    "explain": f"{DETECTOR} image max_detections output_dir points threshold",
    "convert": "dilation nheads output weights",
    "convert_data": f"{DATA} output polygon_tolerance quiet to",
    "pack": f"{DATA} output quiet shard_mb",
    "export": f"{DATA} {TILES} batch_size builtin calibration dilation fixed_batch for_tensorrt format image_size "
    "max_ap_drop triton "
    "max_images max_queries nheads num_workers output precision quiet size split weights",
    "models": "filter json",
    "bench": f"{DATA} batch_size compile device evaluation_images image_size images masks model output_dir part "
    "precision quiet seconds weights",
}
"""Every setting of every command. A new one belongs in the documentation, and then here."""

UNITS = {
    "pixels": ("image_size", "size", "points"),
    "minutes": ("minutes", "max_minutes", "save_minutes"),
    "0..1": ("threshold", "val_fraction", "dropout", "difficulty"),
    "per step": ("lr", "lr_backbone", "batch_size", "ema"),
    "images": ("images", "max_errors", "overfit"),
    "processes": ("devices", "num_workers"),
    "epoch": ("lr_drop", "eval_every", "checkpoint_every"),
}
"""Settings that count something, and what their help must name."""


def test_no_setting_appears_unnoticed() -> None:
    settings = {name: sorted(f.name for f in fields(command.config)) for name, command in COMMANDS.items()}
    assert settings == {name: sorted(flags.split()) for name, flags in FLAGS.items()}


def test_the_overview_lists_every_verb(detrkit: Command) -> None:
    for ask in ([], ["--help"], ["-h"], ["help"]):
        shown = detrkit(*ask)
        assert (shown.status, shown.err) == (0, "")
        for command in [*COMMANDS, "detr"]:
            assert re.search(rf"^  {command} +\w", shown.out, re.MULTILINE), command
    assert detrkit("--version").out == f"detrkit {__version__}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_explains_every_setting(detrkit: Command, name: str) -> None:
    shown = detrkit(name, "--help")
    assert (shown.status, shown.err) == (0, "")
    command = COMMANDS[name]
    rows = help_rows(shown.out)
    assert set(rows) - {"help", "config", "print_config"} == {f.name for f in fields(command.config)}
    fast = TrainConfig.from_recipe("fast")
    for field in fields(command.config):
        row = rows[field.name]
        assert len(row) > 8, f"{field.name} is not explained"
        assert not re.search(r"default: *\)|default: None|type:|Literal|%\(", row), row
        default: Any = getattr(fast, field.name) if name == "train" else field.default
        if default is MISSING:
            assert row.endswith("(required)"), row
        elif default not in ("", None):
            text = str(default).lower() if isinstance(default, bool) else str(default)
            assert row.endswith(f"(default: {text})"), row


@pytest.mark.parametrize("name", COMMANDS)
def test_help_names_units(detrkit: Command, name: str) -> None:
    rows = help_rows(detrkit(name, "--help").out)
    if name == "train":
        del rows["num_points"]  # of an attention head, not of an image
    for unit, names in UNITS.items():
        for setting in set(names) & rows.keys():
            words = rows[setting].lower()
            assert unit in words or (unit == "per step" and "per forward pass" in words), f"{setting}: {rows[setting]}"


def test_choices_are_shown(detrkit: Command) -> None:
    text = detrkit("train", "--help").out
    assert "--augmentation {detr,flip,none}" in text
    assert "--dilation {true,false}" in text
    text = detrkit("eval", "--help").out  # where leaving it out means: as the file says
    assert "--dilation {true,false}" in text
    assert "null" not in text


def test_groups_of_train_come_in_reading_order(detrkit: Command) -> None:
    text = detrkit("train", "--help").out
    places = [
        text.index(f"\n{title}:")
        for title in ("Data", "Augmentation", "Optimization", "Run", "Model", "Matching and losses")
    ]
    assert places == sorted(places)


def test_help_of_a_verb_is_quick_and_free_of_torch() -> None:
    code = "import sys; from detrkit.cli import main; main(['train', '--help']); print('torch' in sys.modules)"
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("False\n")
    assert time.perf_counter() - start < 10  # 0.5 s on a machine with nothing else to do


def test_every_type_has_a_name_in_words() -> None:
    from detrkit.config.fields import describe_type

    for command in COMMANDS.values():
        for name, hint in get_type_hints(command.config).items():
            assert describe_type(hint), name
    assert describe_type(get_type_hints(COMMANDS["train"].config)["batch_size"]) == "a whole number, auto or max"


def help_rows(text: str) -> dict[str, str]:
    """Setting -> what its help says, from the text for a wide terminal."""
    rows: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        start = re.match(r"  (?:-h, )?(?:--)?(\w+)(?: \S.*?)?(?:  +(.*))?$", line)
        if start and line[:3] != "   ":
            name = start[1]
            rows[name] = start[2] or ""
        elif line.startswith("      ") and name:
            rows[name] = f"{rows[name]} {line.strip()}".strip()
        else:
            name = ""
    return rows
