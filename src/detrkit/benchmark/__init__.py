"""Benchmarks: variants of the same work, timed in turns, and the limits of the machine."""

import os

# PyTorch reads this when it is imported; otherwise its profiler warns about memory that was allocated before.
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
