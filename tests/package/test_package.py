"""The package as a whole: public names, weight of imports, sizes and names of files."""

import ast
import re
import resource
import subprocess
import sys
from collections import Counter

import pytest

import detrkit
from tests.conftest import ROOT

PUBLIC_NAMES = {
    "Batch",
    "Categories",
    "ComparisonResult",
    "ConversionResult",
    "Detections",
    "Detector",
    "DetrkitError",
    "EvaluationResult",
    "MergeResult",
    "ModelConfig",
    "NamedModel",
    "Output",
    "PackResult",
    "PanopticMap",
    "Preprocessing",
    "ReviewResult",
    "ShardResult",
    "Target",
    "TrackedFrame",
    "TrainConfig",
    "TrainResult",
    "build_criterion",
    "build_model",
    "compare",
    "convert_data",
    "evaluate",
    "export",
    "list_models",
    "merge",
    "pack",
    "panoptic",
    "postprocess",
    "predict_shard",
    "review",
    "track",
    "train",
}


def test_public_names_are_frozen() -> None:
    assert set(detrkit.__all__) == PUBLIC_NAMES
    for name in detrkit.__all__:
        assert getattr(detrkit, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        detrkit.nothing  # noqa: B018


def test_importing_detrkit_and_its_command_line_stays_light() -> None:
    heavy = [
        "torch",
        "torchvision",
        "lightning_fabric",
        "matplotlib",
        "supervision",
        "cv2",
        "scipy",
        "transformers",
        "timm",
    ]
    code = f"import sys, detrkit, detrkit.cli; print(*[m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_help_answers_within_a_second() -> None:
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "detrkit", "--help"], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)  # CPU time, since the machine may be busy
        seconds.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    assert min(seconds) < 1


PACKAGE = ROOT / "src" / "detrkit"
FILES = sorted(PACKAGE.rglob("*.py"))
TWICE = {"__init__.py", "attention.py", "build.py", "detr.py", "train.py"}
"""Names of files that stand in two packages, see docs/decisions.md."""


def test_no_file_is_long_and_no_name_stands_twice() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert {path.name: length for path, length in lengths.items() if length > 400} == {}
    names = Counter(path.name for path in FILES)
    assert {name for name, times in names.items() if times > 1} == TWICE


def test_only_the_top_of_the_package_is_flat() -> None:
    flat = {path.name for path in PACKAGE.glob("*.py")}
    assert flat == {
        "__init__.py",
        "__main__.py",
        "cli.py",
        "errors.py",
        "files.py",
        "results.py",
        "structures.py",
        "version.py",
    }


def test_no_package_hands_on_a_command_and_one_function_loads_a_detector_from_settings() -> None:
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        if path.name == "__init__.py":
            assert "detrkit.commands" not in text, path
        if path.name != "load_detector.py":
            assert not re.search(r"Detector\.load\(\s*config\.", text), path


BRITISH = re.compile(
    r"colour|\bgrey|centre[ds]?\b|behaviour|neighbour|licence|labelled|learnt|"
    r"(?:normal|optim|initial|quant|general|recogn|summar|vector|synchron|random|regular|visual|minim|maxim)is(?:e|ing)",
    re.IGNORECASE,
)


def test_spelling_is_american() -> None:
    exempt = {"suggestions.py"}  # other tools' words for settings
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.name not in exempt:
            actual = BRITISH.search(path.read_text(encoding="utf-8"))
            assert not actual, f"{path.name}: {actual[0]}"


def test_no_function_is_long() -> None:
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno is not None
                assert node.end_lineno - node.lineno < 80, f"{path.name}: {node.name}"
