"""The command line of the reference DETR's main.py and run_with_submitit.py, written down as data."""

MAIN_FLAGS: dict[str, object] = {
    # optimization
    "lr": 1e-4,
    "lr_backbone": 1e-5,
    "batch_size": 2,
    "weight_decay": 1e-4,
    "epochs": 300,
    "lr_drop": 200,
    "clip_max_norm": 0.1,
    # model
    "frozen_weights": None,
    "backbone": "resnet50",
    "dilation": False,
    "position_embedding": "sine",
    "enc_layers": 6,
    "dec_layers": 6,
    "dim_feedforward": 2048,
    "hidden_dim": 256,
    "dropout": 0.1,
    "nheads": 8,
    "num_queries": 100,
    "pre_norm": False,
    "masks": False,
    # matching and losses
    "no_aux_loss": False,
    "set_cost_class": 1,
    "set_cost_bbox": 5,
    "set_cost_giou": 2,
    "mask_loss_coef": 1,
    "dice_loss_coef": 1,
    "bbox_loss_coef": 5,
    "giou_loss_coef": 2,
    "eos_coef": 0.1,
    # data and run
    "dataset_file": "coco",
    "coco_path": None,
    "coco_panoptic_path": None,
    "remove_difficult": False,
    "output_dir": "",
    "device": "cuda",
    "seed": 42,
    "resume": "",
    "start_epoch": 0,
    "eval": False,
    "num_workers": 2,
    # several processes
    "world_size": 1,
    "dist_url": "env://",
}
"""Flags of main.py with their defaults; False marks a switch."""

SUBMITIT_FLAGS = {"ngpus": 8, "nodes": 4, "timeout": 60, "job_dir": ""}
"""What run_with_submitit.py adds."""


def log_keys(dec_layers: int) -> set[str]:
    """The keys of a line of log.txt, for detection."""
    layers = ["", *(f"_{number}" for number in range(dec_layers - 1))]
    losses = {f"loss_{term}{layer}" for term in ("ce", "bbox", "giou") for layer in layers}
    unscaled = losses | {f"cardinality_error{layer}" for layer in layers} | {"class_error"}
    each = {"class_error", "loss"} | losses | {f"{name}_unscaled" for name in unscaled}
    return (
        {"train_lr", "test_coco_eval_bbox", "epoch", "n_parameters"}
        | {f"train_{name}" for name in each}
        | {f"test_{name}" for name in each}
    )
