"""One frozen graph, which is the training `forward`, to the formats that others run, each with a parity report."""
