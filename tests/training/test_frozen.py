"""What is frozen stays as it is: weights, running statistics and dropout, whatever froze it."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from detrkit.models import build_model
from detrkit.models.frozen import freeze, frozen_parts, is_frozen
from detrkit.structures import Target
from detrkit.training import train
from detrkit.training.checkpoint import read
from detrkit.training.optim import build_optimizer

from .conftest import TINY

MODEL = {
    name: TINY[name]
    for name in ("backbone", "hidden_dim", "nheads", "enc_layers", "dec_layers", "dim_feedforward", "num_queries")
}
LEVELS = {"feature_levels": "16,32", "encoder": "deformable", "decoder": "deformable"}


def step(model: nn.Module) -> None:
    """A step with rates so high that whatever moves is seen to."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1, weight_decay=0.1)
    images, padding = torch.rand(2, 3, 64, 64), torch.zeros(2, 64, 64, dtype=torch.bool)
    target = Target(labels=torch.zeros(1, dtype=torch.int64), boxes=torch.full((1, 4), 0.5))
    out = model(images, padding, [target, target])
    (out.logits.sum() + out.boxes.sum()).backward()
    optimizer.step()


@pytest.mark.parametrize(
    ("settings", "rates", "prefix"),
    [
        ({"backbone_norm": "batch"}, {"lr_backbone": 0.0}, "backbone.0."),
        ({"backbone": "nano", "backbone_norm": "batch"}, {"lr_backbone": 0.0}, "backbone.0."),
        ({"backbone": "resnet18", "backbone_norm": "frozen"}, {"lr_backbone": 1.0}, "backbone.0.body.layer1."),
        (LEVELS, {"lr_backbone": 1.0, "lr_linear_proj_mult": 0.0}, "transformer.encoder.layers.0.self_attn.sampling"),
    ],
    ids=["timm", "nano", "first layers", "sampling offsets"],
)
def test_a_rate_of_0_leaves_everything_alone(settings, rates, prefix):
    model = build_model(2, **{**MODEL, **settings})
    optimizer = build_optimizer(model, lr=1.0, weight_decay=0.1, **rates)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert any(name.startswith(prefix) for name in before)
    learns = {id(p) for group in optimizer.param_groups for p in group["params"]}
    step(model)
    for name, value in model.state_dict().items():
        if name.startswith(prefix):
            assert torch.equal(value, before[name]), name
    assert not any(id(p) in learns for name, p in model.named_parameters() if name.startswith(prefix))
    assert not torch.equal(model.class_embed.weight, before["class_embed.weight"])


def test_frozen_batch_norms_and_dropout_run_as_in_evaluation_however_often_train_is_called():
    model = build_model(2, **MODEL, backbone_norm="batch", dropout=0.5)
    freeze(model.backbone.parameters())
    freeze(model.transformer.encoder.parameters())
    model.train()
    model.eval()
    model.train()
    assert model.training
    assert [is_frozen(part) for part in (model.backbone, model.transformer.encoder, model.transformer)] == [
        True,
        True,
        False,
    ]
    assert list(frozen_parts(model)) == [model.transformer.encoder, model.backbone]
    assert not any(part.training for whole in frozen_parts(model) for part in whole.modules())
    assert all(part.training for part in model.transformer.decoder.modules())
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    model.train()
    assert all(part.training for part in model.modules())


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_run_with_a_frozen_backbone(tiny, tmp_path, ema, recwarn):
    started = train(tiny(epochs=1, backbone_norm="batch")).run_dir
    config = tiny(
        weights=str(started), output_dir=str(tmp_path / "frozen"), lr_backbone=0.0, backbone_norm="batch", ema=ema
    )
    before = read(started / "best.ckpt")["model"]
    after = read(train(config).run_dir / "last.ckpt")
    for name, value in before.items():
        for kept in (after["model"][name], (after["ema"] or {"raw_model": after["model"]})["raw_model"][name]):
            assert torch.equal(value, kept) or not name.startswith("backbone.0."), name
    assert not torch.equal(before["class_embed.weight"], after["model"]["class_embed.weight"])
    assert not any("random weights" in str(each.message) for each in recwarn)
    train(replace(config, resume="auto", epochs=3))  # it still is


def test_a_frozen_backbone_of_random_weights_is_reported(tiny, capsys):
    with pytest.warns(UserWarning, match="lr_backbone 0 freezes a backbone of random weights"):
        train(tiny(epochs=1, lr_backbone=0.0))
    assert "the whole backbone is frozen, statistics included" in capsys.readouterr().out
