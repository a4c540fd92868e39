"""An ONNX file of ultralytics for `cpu_peers.py`, in its own environment: `cpu_peers_yolo.py MODEL SIZE FILE`.

MODEL is a name such as yolo11n, for random weights and the 80 classes of COCO, or a .pt file. YOLO26 is exported with
its branch that needs no non-maximum suppression. Needs ultralytics and onnx, and onnxslim to simplify the graph.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def main(model: str, size: int, target: Path) -> None:
    """Export a model for one square image of `size` pixels."""
    from ultralytics import YOLO

    source = str(Path(model).resolve()) if model.endswith(".pt") else f"{model}.yaml"
    os.chdir(target.parent)  # the file appears beside the weights, or here
    detector = YOLO(source)
    end_to_end = {"nms": False} if hasattr(detector.model.model[-1], "one2one_cv2") else {}
    options = {"imgsz": size, "opset": 18, "device": "cpu", "simplify": True, "dynamic": False, **end_to_end}
    made = Path(detector.export(format="onnx", **options))
    made.replace(target)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]).resolve())
