"""The names that users may rely on: a change here is a change for them."""

from __future__ import annotations

import importlib.metadata
import inspect

import pc_engine
from pc_engine import errors


def test_the_public_names_are_these() -> None:
    assert sorted(pc_engine.__all__) == [
        "BackendError",
        "BoxPointer",
        "DataError",
        "Decoding",
        "DeviceLostError",
        "DeviceMemoryError",
        "DownloadError",
        "EllipsePointer",
        "Engine",
        "ImageError",
        "ManifestError",
        "MissingPackageError",
        "MissingPartError",
        "Model",
        "ModelError",
        "PcEngineError",
        "Pointer",
        "Result",
        "SourceImage",
        "UsageError",
        "WeightsError",
        "__version__",
        "iter_rows",
        "load_model",
    ]


def test_every_public_name_is_there_and_documented() -> None:
    for name in pc_engine.__all__:
        value = getattr(pc_engine, name)
        if isinstance(value, type):
            assert value.__doc__, name


def test_rows_are_read_as_the_run_wrote_them_or_as_people_corrected_them() -> None:
    parameters = inspect.signature(pc_engine.iter_rows).parameters
    assert list(parameters) == ["directory", "corrected"]
    assert parameters["corrected"].default is False


def test_the_version_is_that_of_the_package() -> None:
    assert pc_engine.__version__ == importlib.metadata.version("pc-engine")


def test_every_error_is_a_pc_engine_error_with_an_exit_code() -> None:
    kinds = [getattr(pc_engine, name) for name in pc_engine.__all__ if name.endswith("Error")]
    assert all(issubclass(error, pc_engine.PcEngineError) for error in kinds)
    codes = {error.__name__: error.exit_code for error in kinds}
    wrong_use = {name for name, code in codes.items() if code == 2}
    assert wrong_use == {"DataError", "MissingPackageError", "MissingPartError", "UsageError"}
    assert set(codes.values()) == {1, 2}


def test_every_error_that_is_raised_on_purpose_is_public() -> None:
    kinds = {value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)}
    # A BackendError to whoever catches them: what they are of their own is how the command line ends.
    own = {"DeviceError", "PrecisionError"}
    assert {kind.__name__ for kind in kinds} - own == {name for name in pc_engine.__all__ if name.endswith("Error")}
    assert all(issubclass(getattr(errors, name), errors.BackendError) for name in own)
