"""Everything detrkit raises on purpose, for a person to read.

    DetrkitError                 what the user can fix; the command line prints it as one sentence and exits with 2
    ├── ConfigError              a setting or flag that does not exist, or cannot be combined with another
    ├── DataError                a data set, annotation file or image that cannot be read as asked
    ├── WeightsError             a checkpoint that cannot be found, read, trusted or fitted to the model
    ├── MissingExtraError        a feature whose optional package is not installed
    └── TrainingError            a training run that cannot go on
        ├── NonFiniteLossError   the loss became NaN or infinite
        └── OutOfMemoryError     the device's memory does not hold the batch

Each message says what was expected, what was found and where, and what to do. Anything else that escapes is our bug.
"""


class DetrkitError(Exception):
    """Base of every error that the user can fix."""


class ConfigError(DetrkitError):
    """A setting does not exist or does not fit the others."""


class DataError(DetrkitError):
    """A data set, annotation file or image cannot be read as asked."""


class WeightsError(DetrkitError):
    """A checkpoint cannot be found, read, trusted or fitted to the model."""


class MissingExtraError(DetrkitError):
    """A feature needs an optional package that is not installed."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f'{feature} needs an optional package; install it with: pip install "detrkit[{extra}]"')


class TrainingError(DetrkitError):
    """A training run cannot go on."""


class NonFiniteLossError(TrainingError):
    """The loss became NaN or infinite."""


class OutOfMemoryError(TrainingError):
    """The memory of the device does not hold the batch."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python or PyTorch says that the memory of the machine or its accelerator ran out."""
    import torch  # heavy, and here already where this is asked

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error).lower() for message in _OUT_OF_MEMORY)


_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "unable to allocate", "out of memory")
