"""One training of ultralytics for `frontier.py`, in its own environment: `python frontier_yolo.py FOLDER`.

FOLDER has job.json and data/; it gets result.json and detections.json, with boxes in pixels. Needs ultralytics alone.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path


def main(run: Path) -> None:
    """Train for the minutes of the job, on the CPU time of this process, and detect on the validation images."""
    job = json.loads((run / "job.json").read_text(encoding="utf-8"))
    time.time = time.process_time  # by which ultralytics keeps to its limit
    from ultralytics import YOLO

    model = YOLO(f"{job['model']}.yaml")
    model.train(
        data=str(run / "data" / "data.yaml"),
        imgsz=job["image_size"],
        time=job["minutes"] / 60,
        device="cpu",
        workers=0,
        seed=job["seed"],
        plots=False,
        project=str(run.resolve()),
        name="train",
        exist_ok=True,
    )
    trained = time.process_time()
    epochs = len((run / "train" / "results.csv").read_text(encoding="utf-8").strip().splitlines()) - 1
    detections = []
    best = YOLO(str(run / "train" / "weights" / "best.pt"))
    options = {"imgsz": job["image_size"], "conf": 0.001, "max_det": 300, "device": "cpu", "verbose": False}
    for path in sorted((run / "data" / "images" / "val").iterdir()):
        boxes = best.predict(str(path), **options)[0].boxes
        for (x0, y0, x1, y1), score, label in zip(
            boxes.xyxy.tolist(), boxes.conf.tolist(), boxes.cls.tolist(), strict=True
        ):
            box = [x0, y0, x1 - x0, y1 - y0]
            detections.append({"file_name": path.name, "class": int(label), "bbox": box, "score": score})
    (run / "detections.json").write_text(json.dumps(detections), encoding="utf-8")
    (run / "result.json").write_text(json.dumps({"cpu_minutes": trained / 60, "epochs": epochs}), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
