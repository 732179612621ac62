"""Writing model directories: all files or none."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx

from pc_engine.errors import ModelError, UsageError, first_line, system_reason
from pc_engine.files.durable import rename, sync_file, sync_folder
from pc_engine.files.out_folder import check_vacant
from pc_engine.manifest import NETWORK_FILE, Manifest
from pc_engine.manifest_file import write_manifest


def write_model_directory(model: onnx.ModelProto, manifest: Manifest, out_dir: Path) -> Manifest:
    """Write ``model`` and ``manifest`` as ``out_dir``; it appears complete, checked by ONNX's checker, or not at all.

    The same model gives the same bytes.
    """
    with _appearing_at_once(out_dir) as directory:
        path = directory / NETWORK_FILE
        path.write_bytes(model.SerializeToString(deterministic=True))
        check_network(path)
        return write_manifest(manifest, directory)


def check_network(path: Path) -> None:
    """Raise ModelError where ONNX's checker finds the file at fault."""
    try:
        onnx.checker.check_model(path, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ModelError(
            f"The network does not pass the ONNX checker ({first_line(error)}); report this, or fix it."
        ) from None


@contextmanager
def _appearing_at_once(out_dir: Path) -> Iterator[Path]:
    """Yield a new directory beside ``out_dir`` that takes its name when the block ends well, and else goes."""
    check_vacant(out_dir)
    place = out_dir.absolute()
    # Not by the number of the process: in containers that is that of the one before, which may have been killed.
    building = place.with_name(f".{place.name}.{secrets.token_hex(8)}.new")
    try:
        building.mkdir(parents=True)
    except OSError as error:
        raise UsageError(f"{out_dir} cannot be made ({system_reason(error)}): choose another place.") from None
    try:
        yield building
        for path in building.iterdir():
            sync_file(path)
        sync_folder(building)
        if out_dir.exists():
            out_dir.rmdir()  # empty; Windows does not replace it
        rename(building, out_dir)
        sync_folder(out_dir.absolute().parent)
    except OSError as error:
        raise ModelError(
            f"{out_dir} cannot be written ({system_reason(error)}): make room, or choose another place."
        ) from None
    finally:
        shutil.rmtree(building, ignore_errors=True)
