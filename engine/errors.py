"""Every error that pc-engine raises on purpose.

    PcEngineError
    ├── UsageError             the call itself is wrong (exit code 2)
    ├── MissingPackageError    an optional package is needed and absent; names the extra (exit code 2)
    ├── ModelError             a model directory, or what is asked of it, does not fit
    │   ├── ManifestError      manifest.json is absent, malformed or disagrees with its files
    │   ├── MissingPartError   a model lacks what was asked of it: a counter, a quantised network (exit code 2)
    │   ├── WeightsError       a weight file lacks a tensor, has an odd shape, or is no weight file
    │   └── DownloadError      weights could not be fetched
    ├── BackendError           a backend cannot run here, or failed while running
    │   ├── DeviceError        the device asked for is not to be had here (exit code 2)
    │   ├── PrecisionError     the precision asked for is not to be had here (exit code 2)
    │   ├── DeviceMemoryError  the GPU's memory does not hold a batch; a smaller one may fit
    │   └── DeviceLostError    the GPU stopped answering; nothing runs on it until the process ends
    ├── DataError              a labelled data set cannot be read
    └── ImageError             one image cannot be read; becomes that image's error row

Messages are one sentence or two: what was wrong, with which value, and what to do. The command line prints the
message alone, never a traceback.
"""

from __future__ import annotations

#: What an `ImageError` says where there is no memory for an image.
TOO_LARGE_FOR_MEMORY = "It does not fit into memory: scale it down first."
# Characters of a message.
_LONGEST = 2_000


class PcEngineError(Exception):
    """Base of all errors raised on purpose; ``exit_code`` is what the command line ends with."""

    exit_code = 1

    def __init__(self, message: str = "") -> None:
        # It may repeat what a file says, and that may be of any length.
        super().__init__(message if len(message) <= _LONGEST else f"{message[:_LONGEST]} ...")


class UsageError(PcEngineError):
    """The call itself is wrong: an unknown name, a contradiction, a source that does not exist."""

    exit_code = 2


class MissingPackageError(PcEngineError):
    """An optional package is absent.

    Parameters
    ----------
    package
        Name as imported, e.g. ``"h5py"``.
    extra
        The extra of pc-engine that installs it, e.g. ``"hdf5"``.
    purpose
        What it is needed for, completing "is needed to …".
    """

    exit_code = 2

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"The package '{package}' is needed to {purpose}: install it with pip install 'pc-engine[{extra}]'."
        )
        self.package = package
        self.extra = extra
        self._purpose = purpose

    def __reduce__(self) -> tuple[type[MissingPackageError], tuple[str, str, str]]:
        # Made again of what it says alone, it would end the pool of processes that it comes from.
        return type(self), (self.package, self.extra, self._purpose)


class ModelError(PcEngineError):
    """A model directory, or what is asked of it, does not fit."""


class ManifestError(ModelError):
    """``manifest.json`` is absent, malformed, or disagrees with the files beside it."""


class MissingPartError(ModelError):
    """A model lacks a part that the mode or precision asked for needs; the message names the command that makes it."""

    exit_code = 2


class WeightsError(ModelError):
    """A weight file lacks a tensor, has one of another shape, or is not a weight file."""


class DownloadError(ModelError):
    """Weights could not be fetched; the message says how to get them by hand."""


class BackendError(PcEngineError):
    """A backend cannot run on this machine, or failed while it ran."""


class DeviceError(BackendError):
    """The device asked for is not to be had here."""

    exit_code = 2


class PrecisionError(BackendError):
    """The precision asked for is not to be had here."""

    exit_code = 2


class DeviceMemoryError(BackendError):
    """The GPU has no memory left for a batch of this size; a smaller one may fit."""


class DeviceLostError(BackendError):
    """The GPU failed in a way that no call of this process recovers from; what was finished stays finished."""


class DataError(PcEngineError):
    """A labelled data set cannot be read."""

    exit_code = 2


class ImageError(PcEngineError):
    """One image cannot be read. A run turns it into that image's error row."""


def system_reason(error: BaseException) -> str:
    """Return what the system says is wrong, such as "No space left on device", or an error's own text if it does not.

    An OSError without a number has no ``strerror``, and other errors never.
    """
    return str(getattr(error, "strerror", None) or error)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or its kind if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
