"""The command `predict` as its tests call it."""

import json
from pathlib import Path

from detrkit.commands.predict import predict
from detrkit.config.commands import PredictConfig


def run(checkpoint: Path, output: Path, *sources: object, **settings: object) -> list[dict]:
    settings = {"threshold": 0.0, "device": "cpu"} | settings
    predict(
        PredictConfig(source=[str(s) for s in sources], weights=str(checkpoint), output_dir=str(output), **settings)
    )
    return json.loads((output / "detections.json").read_text())


def files_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
