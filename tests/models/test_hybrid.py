"""The hybrid encoder of RT-DETR: its parts, and independence of padding."""

import pytest
import torch

from detrkit.models.backbones.base import Backbone
from detrkit.models.backbones.families import build_features
from detrkit.models.hybrid_encoder import HybridEncoder
from detrkit.models.layers.feature_levels import Level
from detrkit.models.layers.input_proj import ChannelMapper
from detrkit.models.layers.position_encoding import GridPosition, SinePosition
from tests.models.small import some_images
from tests.models.test_resnet_vd import randomize


def some_levels(*sizes, dim=32, seed=0, some_images=2):
    """Levels without padding."""
    generator = torch.Generator().manual_seed(seed)
    return [
        Level(
            torch.randn(some_images, dim, h, w, generator=generator),
            torch.zeros(some_images, h, w, dtype=torch.bool),
            torch.randn(some_images, dim, h, w, generator=generator),
        )
        for h, w in sizes
    ]


def small_encoder(**settings):
    torch.manual_seed(0)
    encoder = HybridEncoder(32, 4, 3, 48, 0.0, **settings)
    randomize(encoder)
    return encoder.eval()


def test_the_grid_position_by_hand():
    encoding = GridPosition(8, temperature=100.0)(torch.zeros(2, 3, 4, dtype=torch.bool))
    assert encoding.shape == (2, 8, 3, 4)
    row, column = torch.tensor(2.0), torch.tensor(3.0)
    expected = [row.sin(), (row / 10).sin(), row.cos(), (row / 10).cos()]
    expected += [column.sin(), (column / 10).sin(), column.cos(), (column / 10).cos()]
    torch.testing.assert_close(encoding[1, :, 2, 3], torch.stack(expected))


@pytest.mark.parametrize("expansion", [0.5, 1.0])
def test_outputs_are_those_of_transformers(expansion):
    transformers = pytest.importorskip("transformers")
    from transformers.models.rt_detr.modeling_rt_detr import RTDetrHybridEncoder

    torch.manual_seed(0)
    config = transformers.RTDetrConfig(
        encoder_hidden_dim=32,
        encoder_attention_heads=4,
        encoder_ffn_dim=48,
        encoder_layers=2,
        hidden_expansion=expansion,
    )
    theirs = RTDetrHybridEncoder(config).eval()
    randomize(theirs)
    for layer in theirs.aifi[0].layers:  # which starts them so small that order and position would not show
        for parameter in layer.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    given, renamed = theirs.state_dict(), {}
    for key in [key for key in given if key.startswith("aifi.")]:
        module, leaf = key.removeprefix("aifi.0.").rsplit(".", 1)
        for there, here in (
            ("self_attn_layer_norm", "norm1"),
            ("final_layer_norm", "norm2"),
            ("mlp.fc", "linear"),
            ("o_proj", "out_proj"),
        ):
            module = module.replace(there, here)
        renamed[f"{module}.{leaf}"] = given.pop(key)
    for layer in range(2):
        for leaf in ("weight", "bias"):
            parts = [renamed.pop(f"layers.{layer}.self_attn.{part}_proj.{leaf}") for part in "qkv"]
            renamed[f"layers.{layer}.self_attn.in_proj_{leaf}"] = torch.cat(parts)
    ours = small_encoder(enc_layers=2, expansion=expansion)
    own = {key: value for key, value in ours.state_dict().items() if key.startswith("out_projs.")}
    ours.load_state_dict(given | renamed | own)

    levels = some_levels((24, 40), (12, 20), (6, 10))
    with torch.no_grad():
        expected = theirs(inputs_embeds=[level.features.clone() for level in levels]).last_hidden_state
        expected = [project(each) for project, each in zip(ours.out_projs, expected, strict=True)]  # theirs: elsewhere
        memory = ours(levels)
    assert memory.shapes == ((24, 40), (12, 20), (6, 10))
    for our_map, their_map in zip(memory.maps(), expected, strict=True):
        torch.testing.assert_close(our_map, their_map, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(memory.position[:, : 24 * 40], levels[0].position.flatten(2).transpose(1, 2))


def with_padding(levels, *rows):
    """The same levels with so many padded rows and columns more at each, full of large numbers."""
    generator, padded = torch.Generator().manual_seed(1), []
    for level, more in zip(levels, rows, strict=True):
        some_images, dim, h, w = level.features.shape
        features = 5 * torch.randn(some_images, dim, h + more, w + more, generator=generator)
        features[:, :, :h, :w] = level.features
        padding = torch.ones(some_images, h + more, w + more, dtype=torch.bool)
        padding[:, :h, :w] = False
        padded.append(Level(features, padding, torch.zeros_like(features)))
    return padded


def test_padding_does_not_change_an_image():
    encoder, levels = small_encoder(), some_levels((29, 40), (15, 20), (8, 10))
    padded = with_padding(levels, 8, 4, 2)
    unmarked = [Level(level.features, torch.zeros_like(level.padding), level.position) for level in padded]
    with torch.no_grad():
        alone, batched, wrong = (encoder(each).maps() for each in (levels, padded, unmarked))
    for ours, theirs, other in zip(alone, batched, wrong, strict=True):
        height, width = ours.shape[-2:]
        torch.testing.assert_close(ours, theirs[..., :height, :width], rtol=0, atol=1e-5)
        assert (ours - other[..., :height, :width]).abs().max() > 1e-2  # the law is not empty


@pytest.mark.parametrize(
    "sizes",
    [
        ((13, 7), (7, 4), (4, 2)),  # a backbone that rounds up
        ((13, 7), (6, 3), (3, 1)),  # one that rounds down
        ((1, 1), (1, 1), (1, 1)),
    ],
)
def test_levels_of_odd_sizes(sizes):
    memory = small_encoder()(some_levels(*sizes))
    assert memory.shapes == sizes
    assert memory.tokens.shape == (2, sum(h * w for h, w in sizes), 32)
    assert memory.tokens.isfinite().all()


def test_every_level_depends_on_every_other():
    encoder, levels = small_encoder(), some_levels((8, 8), (4, 4), (2, 2))
    for level in levels:
        level.features.requires_grad_()
    for ours in encoder(levels).maps():
        gradients = torch.autograd.grad(ours.square().sum(), [level.features for level in levels], retain_graph=True)
        assert all(gradient.abs().max() > 1e-6 for gradient in gradients)


def test_one_level_and_no_attention():
    torch.manual_seed(0)
    (level,) = some_levels((5, 6))
    alone = HybridEncoder(32, 4, 1, 48, 0.0, enc_layers=0).eval()
    torch.testing.assert_close(alone([level]).maps()[0], alone.out_projs[0](level.features))
    assert {name.split(".")[0] for name, _ in alone.named_parameters()} == {"out_projs"}


def test_half_precision():
    encoder, levels = small_encoder(), some_levels((8, 8), (4, 4), (2, 2))
    with torch.no_grad():
        exact = encoder(levels).tokens
        with torch.autocast("cpu", torch.bfloat16):
            tokens = encoder(levels).tokens
    assert (tokens.float() - exact).abs().mean() < 0.02 * exact.std()


class _Pixels(torch.nn.Module):
    """From images to tokens."""

    def __init__(self):
        super().__init__()
        self.backbone = Backbone(build_features("nano", "batch", strides=(16, 32)), SinePosition(32))
        self.mapper = ChannelMapper(self.backbone.channels, 32, norm="batch")
        self.encoder = HybridEncoder(32, 4, 2, 48, 0.0, blocks=1)

    def forward(self, images, padding_mask):
        return self.encoder(self.backbone.to_levels(self.mapper(self.backbone(images)), padding_mask)).tokens


def test_pixels_to_tokens_export_with_free_batch_and_image_size():
    torch.manual_seed(0)
    model = _Pixels().eval()
    batch, height, width = (torch.export.Dim(n, min=low, max=1333) for n, low in (("B", 1), ("H", 64), ("W", 64)))
    shapes = ({0: batch, 2: height, 3: width}, {0: batch, 1: height, 2: width})
    program = torch.export.export(model, some_images((64, 96), (64, 96)), dynamic_shapes=shapes)
    other = some_images((100, 130), (90, 70), (64, 64))
    torch.testing.assert_close(program.module()(*other), model(*other))
