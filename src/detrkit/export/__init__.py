"""One frozen graph, which is the training `forward`, to the formats that others run, each with a parity report."""

from detrkit.export.run import export

__all__ = ["export"]
