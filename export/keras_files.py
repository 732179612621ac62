"""Reading the layers of Keras files: HDF5 of Keras 1, 2 and 3, and the ``.keras`` archives of Keras 3.

Keras 1 and 2 keep a layer as ``block1_conv1/...``, with or without the model around it. Keras 3 keeps it as
``layers/conv2d/vars/0``, called by its kind and counted, whatever the layer's own name is; later versions (3.15, not
3.5) have that in an attribute of ``vars``. A ``.keras`` file is a zip that holds such a file uncompressed, and it is
read there. All of it in a process of its own, since a damaged file can crash it, or keep it for ever.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Any

import numpy as np

from pc_engine.errors import WeightsError, system_reason
from pc_engine.export import keras_child
from pc_engine.export.weight_files import WeightFile
from pc_engine.packages import require

# Half a gigabyte takes seconds.
_SECONDS = 300


def read_keras(path: Path) -> WeightFile:
    """Read the layers of a Keras HDF5 file or ``.keras`` archive, with or without the model around them.

    Names below a layer changed over time (``fc1_W_1:0``, ``fc1/kernel:0``, ``vars/0``), so a layer's arrays are told
    apart by their number of axes.

    Raises
    ------
    WeightsError
        If the file is damaged, leads out of itself, or would fill far more memory than it has bytes.
    MissingPackageError
        If h5py is absent.
    """
    require("h5py", f"read the Keras file {path.name}")
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({system_reason(error)}): name another with --weights.") from None
    # By its file, so that it imports nothing it does not use; -P keeps its folder from being looked for modules in.
    command = [sys.executable, "-P", keras_child.__file__, str(path)]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as child:
        assert child.stdout is not None
        late = threading.Timer(_SECONDS, child.kill)
        late.start()
        try:
            answer = _read_answer(child.stdout)
        finally:
            late.cancel()
            child.kill()
    if "refused" in answer:
        raise WeightsError(answer["refused"])
    if "tensors" not in answer:
        kind = "a .keras file" if path.suffix.lower() == ".keras" else "an HDF5 file"
        reason = answer.get("error", f"its reader crashed, or took more than {_SECONDS} seconds")
        raise WeightsError(f"{path} is damaged, cut off or not {kind} ({reason}); get it again.")
    return WeightFile(path, answer["tensors"], is_keras=True, is_numbered=answer["numbered"])


def _read_answer(stream: IO[bytes]) -> dict[str, Any]:
    """Return what the child printed, its tensors as arrays by their names; nothing where it ends too early."""
    try:
        answer: dict[str, Any] = json.loads(stream.readline())
    except ValueError:
        return {}
    if "tensors" in answer:
        tensors: dict[str, np.ndarray] = {}
        for name, kind, shape in answer["tensors"]:
            array = tensors[name] = np.empty(shape, kind)
            if stream.readinto(array.reshape(-1).view(np.uint8)) < array.nbytes:  # type: ignore[attr-defined]
                return {}
        answer["tensors"] = tensors
    return answer
