"""Training from the weights of the package: they replace the random ones, and nothing else changes."""

from typing import Any

import torch

from detrkit.config.train import TrainConfig
from detrkit.models.checkpoints import load_weights
from detrkit.structures import Categories
from detrkit.training.model_setup import ModelSetup
from detrkit.training.setup import build_training_model

CLASSES = Categories((1, 2, 3), ("scratch", "dent", "stain"))


def setup(**settings: Any) -> ModelSetup:
    config = TrainConfig.from_recipe("fast", model="detrkit_n", image_size=64, num_queries=30, **settings)
    return build_training_model(config, CLASSES, None)


def test_all_tensors_but_those_of_classes_and_further_queries_are_the_weights_of_the_package() -> None:
    stored, model = load_weights("detrkit_n").state_dict, setup().model.state_dict()
    random = setup(weights="none").model.state_dict()
    assert model.keys() == random.keys()
    per_class = {name for name, value in model.items() if value.shape != stored[name].shape}
    assert all("class_embed" in name or name.startswith("query_embed.") for name in per_class)
    for name, value in model.items():
        if "class_embed" in name:
            torch.testing.assert_close(value, random[name], rtol=0, atol=0, msg=name)  # as new as without weights
        else:
            torch.testing.assert_close(value, stored[name][: len(value)] if value.ndim else stored[name], msg=name)


def test_norms_rates_and_losses_are_those_of_training_from_scratch() -> None:
    ours, scratch = setup(), setup(weights="none")
    assert ours.model_args == scratch.model_args
    assert ours.model_args["backbone_norm"] == "batch"
    assert ours.lr_backbone == scratch.lr_backbone == ours.config.lr
    assert ours.preprocessing == scratch.preprocessing
    assert ours.settings_from_weights == {}
    assert vars(ours.criterion).keys() == vars(scratch.criterion).keys()


def test_masks_are_added_to_the_weights() -> None:
    model = setup(task="instance").model
    assert model.makes_masks
    key = "transformer.decoder.layers.0.linear1.weight"
    loaded = next(value for name, value in model.state_dict().items() if name.endswith(key))
    torch.testing.assert_close(loaded, load_weights("detrkit_n").state_dict[key], rtol=0, atol=0)
