"""Detectors of the Hugging Face hub that have a short name: ids, sizes, accuracy and licenses of their weights.

Each id, figure and license is that of the source that the row names; AP is that of the released weights, as their
README states it, also where the paper has another. GFLOPs count a multiply-add as two operations. Those of LW-DETR,
Conditional DETR and DAB-DETR, whose authors count it as one, and of RF-DETR, whose README has none, are our own count
(`benchmarks/hub_sizes.py`).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class HubModel:
    """A detector on the Hugging Face hub."""

    name: str
    """Short name, for `--weights`."""
    hub_id: str
    """Owner and name on the hub."""
    description: str
    """One line."""
    parameters: float
    """Millions of parameters."""
    gflops: float
    """Billions of operations per image: of 640 x 640 pixels, for RF-DETR of 384, 512, 576 and 704 pixels per side."""
    box_ap: float
    """Box AP on COCO val2017, in percent."""
    source: str
    """Where accuracy and sizes are published: a URL without https://."""
    license: str = "Apache-2.0"
    """License of the weights."""


_DFINE, _RTDETR = "github.com/Peterande/D-FINE", "github.com/lyuwenyu/RT-DETR"
_RFDETR, _LWDETR = "rfdetr.roboflow.com/latest/learn/run/detection", "github.com/Atten4Vis/LW-DETR"
_DEIMV2, _UNSTATED = "github.com/Intellindust-AI-Lab/DEIMv2", "not stated"
_DEFORMABLE, _CONDITIONAL = "github.com/fundamentalvision/Deformable-DETR", "github.com/Atten4Vis/ConditionalDETR"
_DAB = "arxiv.org/abs/2201.12329"
_BOTH = "trained on Objects365, then on COCO."

HUB_MODELS = {
    model.name: model
    for model in (
        HubModel("dfine_n", "ustc-community/dfine-nano-coco", "D-FINE, nano.", 4, 7, 42.8, _DFINE),
        HubModel("dfine_s", "ustc-community/dfine-small-coco", "D-FINE, small.", 10, 25, 48.5, _DFINE),
        HubModel("dfine_m", "ustc-community/dfine-medium-coco", "D-FINE, medium.", 19, 57, 52.3, _DFINE),
        HubModel("dfine_l", "ustc-community/dfine-large-coco", "D-FINE, large.", 31, 91, 54.0, _DFINE),
        HubModel("dfine_x", "ustc-community/dfine-xlarge-coco", "D-FINE, extra large.", 62, 202, 55.8, _DFINE),
        HubModel("dfine_s_o365", "ustc-community/dfine-small-obj2coco", f"dfine_s {_BOTH}", 10, 25, 50.7, _DFINE),
        HubModel("dfine_m_o365", "ustc-community/dfine-medium-obj2coco", f"dfine_m {_BOTH}", 19, 57, 55.1, _DFINE),
        HubModel("dfine_l_o365", "ustc-community/dfine-large-obj2coco-e25", f"dfine_l {_BOTH}", 31, 91, 57.3, _DFINE),
        HubModel("dfine_x_o365", "ustc-community/dfine-xlarge-obj2coco", f"dfine_x {_BOTH}", 62, 202, 59.3, _DFINE),
        HubModel("rfdetr_n", "Roboflow/rf-detr-nano", "RF-DETR, nano.", 30.5, 31.8, 48.4, _RFDETR),
        HubModel("rfdetr_s", "Roboflow/rf-detr-small", "RF-DETR, small.", 32.1, 59.6, 53.0, _RFDETR),
        HubModel("rfdetr_m", "Roboflow/rf-detr-medium", "RF-DETR, medium.", 33.7, 78.5, 54.7, _RFDETR),
        HubModel("rfdetr_l", "Roboflow/rf-detr-large", "RF-DETR, large.", 33.9, 125.3, 56.5, _RFDETR),
        HubModel(
            "deimv2_n", "harshaljanjani/DEIMv2_HGNetv2_N_COCO_Transformers",
            "DEIMv2 on HGNetv2, nano.", 3.6, 6.8, 43.0, _DEIMV2, _UNSTATED,
        ),
        HubModel(
            "deimv2_s", "harshaljanjani/DEIMv2_DINOv3_S_COCO_Transformers",
            "DEIMv2 on a ViT distilled from DINOv3, small.", 9.7, 25.6, 50.9, _DEIMV2, _UNSTATED,
        ),
        HubModel("lwdetr_t", "AnnaZhang/lwdetr_tiny_60e_coco", "LW-DETR, tiny.", 12.1, 21.3, 42.6, _LWDETR),
        HubModel("lwdetr_s", "AnnaZhang/lwdetr_small_60e_coco", "LW-DETR, small.", 14.6, 31.6, 48.0, _LWDETR),
        HubModel("lwdetr_m", "AnnaZhang/lwdetr_medium_60e_coco", "LW-DETR, medium.", 28.2, 83.7, 52.5, _LWDETR),
        HubModel("lwdetr_l", "AnnaZhang/lwdetr_large_60e_coco", "LW-DETR, large.", 46.8, 137.1, 56.1, _LWDETR),
        HubModel("lwdetr_x", "AnnaZhang/lwdetr_xlarge_60e_coco", "LW-DETR, extra large.", 118, 342.1, 58.3, _LWDETR),
        HubModel("rtdetr_r18", "PekingU/rtdetr_r18vd", "RT-DETR on ResNet-18.", 20, 60, 46.4, _RTDETR),
        HubModel("rtdetr_r34", "PekingU/rtdetr_r34vd", "RT-DETR on ResNet-34.", 31, 92, 48.9, _RTDETR),
        HubModel("rtdetr_r50", "PekingU/rtdetr_r50vd", "RT-DETR on ResNet-50.", 42, 136, 53.1, _RTDETR),
        HubModel("rtdetr_r101", "PekingU/rtdetr_r101vd", "RT-DETR on ResNet-101.", 76, 259, 54.3, _RTDETR),
        HubModel("rtdetr_r18_o365", "PekingU/rtdetr_r18vd_coco_o365", f"rtdetr_r18 {_BOTH}", 20, 60, 49.0, _RTDETR),
        HubModel("rtdetr_r50_o365", "PekingU/rtdetr_r50vd_coco_o365", f"rtdetr_r50 {_BOTH}", 42, 136, 55.2, _RTDETR),
        HubModel("rtdetr_r101_o365", "PekingU/rtdetr_r101vd_coco_o365", f"rtdetr_r101 {_BOTH}", 76, 259, 56.2, _RTDETR),
        HubModel("rtdetrv2_r18", "PekingU/rtdetr_v2_r18vd", "RT-DETRv2 on ResNet-18.", 20, 60, 47.9, _RTDETR),
        HubModel("rtdetrv2_r34", "PekingU/rtdetr_v2_r34vd", "RT-DETRv2 on ResNet-34.", 31, 92, 49.9, _RTDETR),
        HubModel("rtdetrv2_r50", "PekingU/rtdetr_v2_r50vd", "RT-DETRv2 on ResNet-50.", 42, 136, 53.4, _RTDETR),
        HubModel("rtdetrv2_r101", "PekingU/rtdetr_v2_r101vd", "RT-DETRv2 on ResNet-101.", 76, 259, 54.3, _RTDETR),
        HubModel(
            "deformable_r50", "SenseTime/deformable-detr-with-box-refine-two-stage",
            "Deformable DETR, two-stage with refinement.", 41, 162, 46.9, _DEFORMABLE,
        ),
        HubModel(
            "conditional_detr_r50", "microsoft/conditional-detr-resnet-50",
            "Conditional DETR.", 44, 83.5, 41.0, _CONDITIONAL,
        ),
        HubModel("dab_detr_r50", "IDEA-Research/dab-detr-resnet-50", "DAB-DETR.", 44, 85.9, 42.2, _DAB),
    )
}  # fmt: skip
"""Short name -> detector of the hub. A name of a model of detrkit means its weights."""
