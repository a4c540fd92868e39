import copy
from pathlib import Path
from typing import Any

import pytest

from detrkit.models.checkpoints import fit_weights, load_weights
from detrkit.models.hf import TransformersDETR

from . import tiny


@pytest.fixture(scope="session")
def saved(tmp_path_factory) -> Any:
    """Makes the folder of a tiny model, once for all tests, and the model of transformers in it."""
    made: dict[str, tuple[Path, Any]] = {}

    def make(model_type: str) -> tuple[Path, Any]:
        if model_type not in made:
            folder = tmp_path_factory.mktemp(model_type)
            made[model_type] = folder, tiny.save(model_type, folder)
        return made[model_type]

    return make


@pytest.fixture(scope="session")
def loaded(saved) -> Any:
    """Loads the tiny model of a type, once for all tests, in evaluation mode, and copies it for each."""
    made: dict[str, TransformersDETR] = {}

    def load(model_type: str) -> TransformersDETR:
        if model_type not in made:
            weights = load_weights(saved(model_type)[0])
            model = weights.build_model()
            assert isinstance(model, TransformersDETR)
            fit_weights(model, weights, weights.categories)
            made[model_type] = model.eval()
        return copy.deepcopy(made[model_type])

    return load


@pytest.fixture(params=list(tiny.CONFIGS))
def model_type(request) -> str:
    return request.param
