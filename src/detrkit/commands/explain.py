"""`detrkit explain`: draw the attention of the decoder and of the encoder in an image."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from detrkit.config.commands import ExplainConfig
from detrkit.data.decode.images import ignore_unknown_range
from detrkit.files import save_image
from detrkit.inference.inputs import read_one
from detrkit.inference.load_detector import load_detector
from detrkit.ops.console import make_console
from detrkit.visualization.attention import (
    compute_attention,
    draw_decoder,
    draw_encoder,
    parse_point,
    points_to_show,
    strongest,
)


def explain(config: ExplainConfig) -> None:
    """Draw the attention of the strongest detections of an image, and of the encoder at points of it.

    Writes `decoder_attention.png` and `encoder_attention.png` to `config.output_dir`.

    Raises:
        DataError: the image cannot be read.
        ConfigError: a point is not `x,y` inside the image, or a setting is out of range.
        WeightsError: the weights cannot be read.
    """
    read_one(config.image, unknown=ignore_unknown_range)  # a broken image is an error before weights are loaded
    detector = load_detector(config, precision="plain")
    image = detector.read(config.image)
    height, width = image.shape[1:]
    given = [parse_point(text, height, width) for text in config.points.split()]
    attention = compute_attention(detector, image)
    chosen = strongest(attention.detections, config.threshold, config.max_detections)

    console = make_console()
    if detector.preprocessing.tiling:
        console.print(
            f"{config.weights} detects in {detector.preprocessing.tiling}; shown is its attention in the whole image, "
            "where objects are smaller. Give it a part of the image to see what it sees in a tile"
        )
    rgb = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
    output_dir = Path(config.output_dir)
    best = float(attention.detections.scores[chosen[0]])
    if best < config.threshold:
        console.print(f"No detection reaches {config.threshold:g}; the best has {best:.3f}")
    written = [output_dir / "decoder_attention.png"]
    save_image(written[0], draw_decoder(rgb, attention, chosen))
    if attention.encoder is None:
        console.print("The model has no encoder with attention, so there is no encoder_attention.png")
    else:
        points = given or points_to_show(attention, chosen, height, width)
        written.append(output_dir / "encoder_attention.png")
        save_image(written[1], draw_encoder(rgb, attention, points))
    for path in written:
        console.print(f"Written: {path}")
