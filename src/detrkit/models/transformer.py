"""The transformer of DETR: encoder and decoder (paper, section 3.2 and figure 10)."""

from __future__ import annotations

from torch import nn

from detrkit.models.decoder import Decoder


class Transformer(nn.Module):
    """Encoder and decoder, under the keys of the reference DETR."""

    def __init__(self, encoder: nn.Module, decoder: Decoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
