"""All errors that detrkit raises for its users.

    DetrkitError                 errors that the user can fix; the command line prints one sentence and exits with 2
    ├── ConfigError              a setting or flag that does not exist, or cannot be combined with another
    ├── DataError                a data set, annotation file or image that cannot be read or used
    ├── WeightsError             a checkpoint that cannot be found, read, trusted or fitted to the model
    ├── MissingExtraError        a feature whose optional package is not installed
    └── TrainingError            a training run that cannot continue
        ├── NonFiniteLossError   the loss became NaN or infinite
        └── OutOfMemoryError     the batch does not fit into the memory of the device

Each message says what was expected, what was found and where, and what to do. Any other exception is a bug of detrkit.
"""


class DetrkitError(Exception):
    """Base class of all errors that the user can fix."""


class ConfigError(DetrkitError):
    """A setting does not exist or does not fit the others."""


class DataError(DetrkitError):
    """A data set, annotation file or image cannot be read or used."""


class WeightsError(DetrkitError):
    """A checkpoint cannot be found, read, trusted or fitted to the model."""


class MissingExtraError(DetrkitError):
    """A feature needs an optional package that is not installed."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f'{feature} needs an optional package; install it with: pip install "detrkit[{extra}]"')


class TrainingError(DetrkitError):
    """A training run cannot continue."""


class NonFiniteLossError(TrainingError):
    """The loss became NaN or infinite."""


class OutOfMemoryError(TrainingError):
    """The batch does not fit into the memory of the device."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python or PyTorch means that the memory of the machine or its accelerator ran out."""
    import torch  # a heavy import, already loaded by the callers

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error).lower() for message in _OUT_OF_MEMORY)


_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "unable to allocate", "out of memory")
