"""How fast: the same work done in several ways, in turns, beside what the machine can do."""

import os

# PyTorch reads this when it is imported. It would remark that its profiler does not know of memory taken before.
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
