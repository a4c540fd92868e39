"""`--quiet`: no progress, but results, warnings and errors; and run folders wherever a checkpoint is taken."""

from pathlib import Path

import pytest

from .conftest import TINY_FLAGS, Command

HIDE_CURSOR = "\x1b[?25l"
"""What every bar and spinner begins with on a terminal."""


@pytest.mark.usefixtures("no_report")
def test_quiet_commands_show_no_progress(
    detrkit: Command, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # as on a terminal
    monkeypatch.setattr("detrkit.evaluation.report.write_report", lambda *args, **kwargs: {})
    monkeypatch.setattr("detrkit.evaluation.report.tables", lambda content: [])
    folder, images = tmp_path / "run", shapes / "images"
    trained = detrkit("train", "--data", shapes, *TINY_FLAGS, "--epochs=1", "--output_dir", folder, "--quiet")
    assert trained.status == 0
    assert "Best AP" in trained.out
    assert "Device" not in trained.out
    results = [
        trained,
        detrkit("train", "--resume", folder, "--epochs", "2", "--quiet"),  # the run folder is its last checkpoint
        detrkit("check", shapes, "--quiet"),
        detrkit("eval", "--data", shapes, "--weights", folder, "--device=cpu", "--num_workers=0", "--quiet"),
        detrkit("predict", images, "--weights", folder, "--device=cpu", "--no_images", "--quiet"),
        detrkit("export", "--weights", folder, "--format", "torch", "--quiet"),
    ]
    for result, words in zip(results, ("Best", "Best", "No defects", "Report", "Written to", "Wrote"), strict=True):
        assert result.status == 0, result
        assert HIDE_CURSOR not in result.out + result.err
        assert words in result.out
    assert HIDE_CURSOR in detrkit("check", shapes).out
    assert HIDE_CURSOR in detrkit("predict", images, "--weights", folder, "--device=cpu", "--no_images").err
    assert (folder / "metrics.csv").read_text().count("\n") == 3
