"""How fast: the same work done in several ways, in turns, beside what the machine can do. `bench` is the door."""

from detrkit.bench.run import bench

__all__ = ["bench"]
