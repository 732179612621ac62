"""The backend seam: a network that was compiled for this machine, and what a backend has to provide.

Everything that differs between ONNX Runtime, OpenVINO, TensorRT and cuDNN lies behind these classes, in
`pc_engine.backends`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from pc_engine.errors import MissingPartError, UsageError
from pc_engine.files.storage import EMBEDDED_MODELS, model_argument
from pc_engine.kernels.array_module import Array
from pc_engine.manifest import QUANTISED_FILES, Manifest

#: Tap name to float32 array of shape (N, ...): what a network says about a batch.
Taps = Mapping[str, Array]

#: Name of the only input of a prepared graph, uint8 [N, H, W, 3] RGB.
IMAGE = "image"

#: What `Backbone.infer` says of a network that was closed.
CLOSED = "The network was closed, perhaps by the engine that it belongs to: keep that open, or open another network."

#: int8 and fp8 need a quantised network; the others run the model's own.
PRECISIONS = ("fp32", "bf16", "fp16", "int8", "fp8")

#: Images in a batch at most; no GPU is known to be faster with as many as that.
LARGEST_BATCH = 1024


def check_batch(n: int, batch_size: int) -> None:
    """Raise `UsageError` unless a batch of ``n`` images is one that a network for ``batch_size`` takes."""
    if not 1 <= n <= batch_size:
        raise UsageError(f"A batch holds 1 to {batch_size} images, got {n}.")


@dataclass(frozen=True)
class CompileRequest:
    """All that decides a compiled network: the network, the outputs wanted, and how it is to run.

    Attributes
    ----------
    network
        The ONNX file.
    manifest
        What it says about that file.
    taps
        Names of the taps wanted; whatever only other taps need is not computed.
    precision
        One of `PRECISIONS`; `at` asks for another one.
    batch_size
        Most images in a batch; `LARGEST_BATCH` or fewer.
    threads
        Cores that the network may use.
    device
        ``"cpu"`` or ``"cuda:N"``.
    """

    network: Path
    manifest: Manifest
    taps: tuple[str, ...]
    precision: str
    batch_size: int
    threads: int
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.batch_size > LARGEST_BATCH:
            raise UsageError(
                f"A batch of {self.batch_size:,} images costs memory and saves no time: ask for at most "
                f"{LARGEST_BATCH:,}."
            )

    def at(self, precision: str) -> CompileRequest:
        """Return the request to run this one's network at ``precision``, with the file that holds it for that.

        Raises
        ------
        MissingPartError
            If that takes a quantised network and the model has none.
        """
        if precision not in QUANTISED_FILES:
            return replace(self, precision=precision)
        if precision not in self.manifest.quantised:
            model = self.network.parent
            copy = " --out DIR', and name that with --model DIR." if model.parent == EMBEDDED_MODELS else "'."
            raise MissingPartError(
                f"The model '{self.manifest.name}' has no {precision} network: make one from photos like yours with "
                f"'pc-engine build {model_argument(model)} --precision {precision} --calibrate PHOTOS{copy}"
            )
        quantised = self.manifest.quantised[precision]
        return replace(
            self,
            network=self.network.with_name(QUANTISED_FILES[precision]),
            manifest=replace(self.manifest, input=quantised.input, taps=quantised.taps),
            precision=precision,
        )

    @property
    def network_sha256(self) -> str:
        """sha256 of the file that is compiled."""
        return self.manifest.files[self.network.name]


class Backbone(Protocol):
    """A compiled network.

    ``parallel`` is the number of batches that it is made to run at once: so many threads may call `infer` at the same
    time, and should, to use the whole machine. ``remarks`` are sentences on what runs other than intended.
    """

    backend: str
    request: CompileRequest
    parallel: int
    remarks: tuple[str, ...]

    def infer(self, images: Array, into: Taps | None = None) -> dict[str, Array]:
        """Run the network.

        Parameters
        ----------
        images
            uint8 (n, H, W, 3) RGB, 1 <= n <= batch size. On a GPU also an array that lives there already, of any
            library (``__cuda_array_interface__`` or DLPack).
        into
            On a GPU arrays such as it returned for a batch of as many images, complete on the current stream: a backend
            may fill and return these in the place of new ones.

        Returns
        -------
        dict
            Tap name to float32 array with n rows, owned by the caller, on the device that the network runs on: a CuPy
            array on a GPU. It is complete when the call returns.

        Raises
        ------
        BackendError
            If the backend fails; a `DeviceMemoryError` may go away with a smaller batch, a `DeviceLostError` does not.
        """

    def close(self) -> None:
        """Free the network's memory; `infer` must not be called afterwards."""


@dataclass(frozen=True)
class Probe:
    """Whether a backend works here: ``reason`` is one sentence, about what it found or about what is missing.

    ``precisions`` are those that run natively on this machine; empty where the backend does not work.
    """

    available: bool
    reason: str
    version: str = ""
    precisions: tuple[str, ...] = ()


class Backend(Protocol):
    """A way to run networks. Importing the module of a backend imports nothing heavy; `probe` does.

    ``devices`` are the kinds of device that it runs on, of ``"cpu"`` and ``"cuda"``.
    """

    name: str
    devices: tuple[str, ...]

    def probe(self, device: str = "cpu") -> Probe:
        """Say whether this backend works here, on ``device``. Never raises."""

    def compile(self, request: CompileRequest, save_to: Path | None = None) -> Backbone:
        """Compile the network; where ``save_to`` is given, also write what `load` takes.

        Raises
        ------
        BackendError
            If the network cannot be compiled.
        """

    def load(self, request: CompileRequest, saved: Path) -> Backbone:
        """Load what `compile` wrote for an equal request, by the same version, on the same machine.

        Raises
        ------
        BackendError
            If it cannot be loaded.
        """
