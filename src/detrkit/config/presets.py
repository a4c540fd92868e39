"""Recipes (`--recipe`: how to train) and named models (`--model`: what to train).

Each function returns the settings that differ from the defaults of `TrainConfig`, which are those of the reference DETR
(facebookresearch/detr). A named model sets architecture, matching, losses and, if it needs its own, a learning rate; a
recipe sets the rest; `default_settings` joins the two. To add one, write a function and a row of the table below it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from detrkit.config.fields import check_named

Overrides = dict[str, Any]
"""Settings by name that differ from the defaults."""


def classic() -> Overrides:
    """DETR as published: 300 epochs or more on a hundred thousand images."""
    return {}


def fast() -> Overrides:
    """Settings that converge from scratch on a few hundred images within tens of epochs."""
    return {
        "model": "detrkit_s",
        "weights": "auto",
        "num_queries": "auto",
        "image_size": "auto",
        "square_resize": True,
        "batch_size": "auto",
        "dropout": 0.0,
        "lr": 4e-4,
        "lr_backbone": 2e-4,
        "lr_base_size": 16,
        "lr_schedule": "flat_cosine",
        "warmup_steps": 100,
        "norm_decay": False,
        "clip_max_norm": 1.0,
        "ema": 0.998,
        "epochs": 50,
        "eval_every": 2,
        "augmentation": "flip",
        "mosaic": 0.5,
        "mixup": 0.2,
        "zoom_out": 0.3,
        "iou_crop": 0.5,
        "color_jitter": 0.5,
        "no_aug_epochs": 5,
        "repeat_threshold": "auto",
    }


def fast_from_weights() -> Overrides:
    """Settings that override `fast` for fine-tuning (`--weights`): no named model, and low learning rates."""
    return {"model": "", "lr": 1e-4, "lr_backbone": 1e-5, "lr_base_size": 0, **sigmoid_losses("varifocal")}


RECIPES: dict[str, Callable[[], Overrides]] = {"classic": classic, "fast": fast}
FROM_WEIGHTS: dict[str, Callable[[], Overrides]] = {"classic": classic, "fast": fast_from_weights}
"""Settings that override each recipe when training starts from the weights of a whole detector."""


WITH_WEIGHTS = ("detrkit_n",)
"""Named models whose trained weights are part of the package. They are a better start than random weights, with the
same settings otherwise."""

NO_WEIGHTS = ("", "none", "auto")
"""Values of `weights` that name no detector to fine-tune."""

WITHOUT_GPU = {"fast": "detrkit_n"}
"""Default model of a recipe on a machine without a GPU."""


def softmax_losses() -> Overrides:
    """Losses of models with a no-object class: those of DETR."""
    return {"class_loss": "softmax", "set_cost_class": 1.0, "cls_loss_coef": 1.0}


def sigmoid_losses(class_loss: str = "focal") -> Overrides:
    """Losses of models with independent sigmoids, with the matching cost of Deformable DETR (appendix A.4).

    The weight of the class loss stays at its default of 1, as in most later models; Deformable DETR itself uses 2.
    """
    return {"class_loss": class_loss, "set_cost_class": 2.0}


def detr_resnet50() -> Overrides:
    """DETR (Carion et al. 2020)."""
    return {}


def detr_resnet50_dc5() -> Overrides:
    """DETR with a dilated last stage (DC5)."""
    return {"dilation": True}


def detr_resnet101() -> Overrides:
    """DETR on ResNet-101."""
    return {"backbone": "resnet101"}


def detr_resnet101_dc5() -> Overrides:
    """DETR on ResNet-101 with a dilated last stage (DC5)."""
    return {"backbone": "resnet101", "dilation": True}


def deformable_r50() -> Overrides:
    """Deformable DETR, two-stage with refinement (Zhu et al. 2021, table 1, last row)."""
    return {
        "feature_levels": "8,16,32,64",
        "encoder": "deformable",
        "decoder": "deformable",
        "dim_feedforward": 1024,
        "query_init": "two_stage",
        "num_queries": 300,
        "box_refine": True,
        "lr_linear_proj_mult": 0.1,
        **sigmoid_losses(),
        "cls_loss_coef": 2.0,
    }


def h_deformable_r50() -> Overrides:
    """H-Deformable-DETR (Jia et al. 2023): one-to-many training queries, mixed query selection, look forward twice."""
    return {
        **deformable_r50(),
        "dim_feedforward": 2048,
        "dropout": 0.0,
        "query_init": "mixed_selection",
        "look_forward_twice": True,
        "num_queries_one2many": 1500,
    }


def dino_r50() -> Overrides:
    """DINO with four levels (Zhang et al. 2023)."""
    return {
        **deformable_r50(),
        "dim_feedforward": 2048,
        "dropout": 0.0,
        "query_init": "mixed_selection",
        "num_queries": 900,
        "look_forward_twice": True,
        "denoising": "contrastive",
        "dn_queries": 200,
        "dn_box_noise": 1.0,
        "cls_loss_coef": 1.0,
    }


def dab_r50() -> Overrides:
    """DAB-DETR (Liu et al. 2022)."""
    return {
        "decoder": "conditional",
        "query_init": "anchors",
        "num_queries": 300,
        "box_refine": True,
        **sigmoid_losses(),
    }


def dn_r50() -> Overrides:
    """DN-DETR: DAB-DETR with denoising (Li et al. 2022)."""
    return {**dab_r50(), "denoising": "plain", "dn_label_noise": 0.4}


def rtdetr_r50() -> Overrides:
    """RT-DETR (Zhao et al. 2024)."""
    return {
        "backbone": "resnet50vd",
        "backbone_weights": "none",
        "feature_levels": "8,16,32",
        "square_resize": True,
        "encoder": "hybrid",
        "enc_layers": 1,
        "decoder": "deformable",
        "dim_feedforward": 1024,
        "dropout": 0.0,
        "query_init": "topk_features",
        "num_queries": 300,
        "box_refine": True,
        "denoising": "contrastive",
        "dn_queries": 200,
        "dn_box_noise": 1.0,
        "norm_decay": False,
        **sigmoid_losses("varifocal"),
    }


def rtdetr_r18() -> Overrides:
    """RT-DETR on ResNet-18, with three decoder layers."""
    return {**rtdetr_r50(), "backbone": "resnet18vd", "encoder_expansion": 0.5, "dec_layers": 3}


def detrkit_s() -> Overrides:
    """detrkit's model on ResNet-18, about 20 M parameters: a dense head trains every token and selects the queries."""
    return {
        "backbone": "resnet18",
        "feature_levels": "8,16,32",
        "encoder": "hybrid",
        "encoder_expansion": 0.5,
        "enc_layers": 1,
        "decoder": "deformable",
        "dec_layers": 3,
        "dim_feedforward": 1024,
        "dropout": 0.0,
        "query_init": "mixed_selection",
        "two_stage_head": "dense",
        "query_nms_iou": 0.7,
        "dense_head": "tood",
        "box_refine": True,
        **sigmoid_losses("varifocal"),
    }


def detrkit_n() -> Overrides:
    """detrkit's smallest model, for CPUs; a small model trains well with a higher learning rate."""
    return {
        **detrkit_s(),
        "lr": 2e-3,
        "backbone": "micro",
        "backbone_weights": "none",
        "encoder_blocks": 2,
        "separable_convs": True,
        "hidden_dim": 128,
        "nheads": 4,
        "dim_feedforward": 256,
        "dec_layers": 2,
        "dense_convs": 1,
    }


def detrkit_m() -> Overrides:
    """detrkit's model on ResNet-34."""
    return {**detrkit_s(), "backbone": "resnet34", "dec_layers": 4}


def detrkit_l() -> Overrides:
    """detrkit's model on ResNet-50."""
    return {**detrkit_s(), "backbone": "resnet50", "encoder_expansion": 1.0, "dec_layers": 6}


MODELS: dict[str, Callable[[], Overrides]] = {
    "detrkit_n": detrkit_n,
    "detrkit_s": detrkit_s,
    "detrkit_m": detrkit_m,
    "detrkit_l": detrkit_l,
    "detr_resnet50": detr_resnet50,
    "detr_resnet50_dc5": detr_resnet50_dc5,
    "detr_resnet101": detr_resnet101,
    "detr_resnet101_dc5": detr_resnet101_dc5,
    "deformable_r50": deformable_r50,
    "h_deformable_r50": h_deformable_r50,
    "dab_r50": dab_r50,
    "dn_r50": dn_r50,
    "dino_r50": dino_r50,
    "rtdetr_r18": rtdetr_r18,
    "rtdetr_r50": rtdetr_r50,
}


def default_settings(chosen: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a recipe, overridden by those of a named model. Settings in neither keep `TrainConfig`'s default.

    Args:
        chosen: settings that the user chose. Used are `recipe` (absent: classic), `model` (absent: the recipe's; empty:
            none), `weights` and `frozen_weights`. Weights of another detector have settings of their own
            (`FROM_WEIGHTS`); those of a named model in the package are a start of that model.

    Raises:
        ConfigError: there is no such recipe or model.
    """
    recipe = chosen.get("recipe", "classic")
    check_named("--recipe", recipe, RECIPES)
    start = chosen.get("frozen_weights") or chosen.get("weights", "")
    packaged = {"model": start} if start in WITH_WEIGHTS and recipe == "fast" else {}
    from_weights = {} if packaged or start in NO_WEIGHTS else FROM_WEIGHTS[recipe]()
    settings = {"recipe": recipe, "model": "", **RECIPES[recipe](), **from_weights, **packaged}
    model = chosen.get("model", settings["model"])
    if model:
        check_named("--model", model, MODELS)
        settings |= MODELS[model]()
        # fine-tuning rates win over the model's
        settings |= {name: rate for name, rate in from_weights.items() if name in ("lr", "lr_backbone")}
    return settings | {"model": model}
