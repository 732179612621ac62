"""ONNX Runtime on an NVIDIA GPU: images and taps stay in CuPy's memory."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np

from pc_engine.backbone import IMAGE, CompileRequest, Taps
from pc_engine.backends.idle import Idle
from pc_engine.errors import BackendError
from pc_engine.hardware.cuda import (
    ImageBuffer,
    cuda_errors,
    device_index,
    free_unused_memory,
    library_failure,
    on_device,
)
from pc_engine.kernels.array_module import Array

PROVIDER = "CUDAExecutionProvider"
#: Rewritings of what is cut off before it is rounded: meant for integers, at fp8 they fail or leave a ReLU out.
INTEGER_REWRITINGS = ("ClipQuantRewrite", "ReluQuantRewrite")
#: Precisions that it runs; int8 networks would be computed node by node, rounding and all.
PRECISIONS = ("fp32", "fp16")


class OnnxRuntimeCudaBackbone:
    """A network in ONNX Runtime sessions on a GPU, one for each batch in flight: a session computes on one stream.

    Raises
    ------
    DeviceMemoryError
        If the GPU's memory does not hold it.
    BackendError
        If ONNX Runtime cannot load it, or would run it on the CPU instead, which by itself it does without a word.
    """

    backend = "onnxruntime"
    parallel = 2
    remarks: tuple[str, ...] = ()

    def __init__(self, request: CompileRequest, graph: bytes) -> None:
        self.request = request
        self._index = device_index(request.device)
        with cuda_errors("loading the network"), on_device(self._index):
            self._idle = Idle([_Lane(request, graph, self._index) for _ in range(self.parallel)])

    def infer(self, images: Array, into: Taps | None = None) -> dict[str, Array]:  # noqa: ARG002 (it allocates its own)
        """See `pc_engine.backbone.Backbone.infer`."""
        with self._idle.taken() as lane, cuda_errors("running the network"), on_device(self._index):
            return lane.run(images)

    def close(self) -> None:
        """See `pc_engine.backbone.Backbone.close`."""
        self._idle.close()
        with contextlib.suppress(BackendError), cuda_errors("closing the network"), on_device(self._index):
            free_unused_memory()


class _Lane:
    """A session with its stream and its room for images: used by one thread at a time."""

    def __init__(self, request: CompileRequest, graph: bytes, index: int) -> None:
        import cupy

        self._cupy, self._request, self._index = cupy, request, index
        pixels = request.manifest.input
        self._stream = cupy.cuda.Stream(non_blocking=True)
        with self._stream:  # which fills it, and which no other stream waits for
            self._images = ImageBuffer((request.batch_size, pixels.height, pixels.width, 3))
        self._done = cupy.cuda.Event(block=True, disable_timing=True)
        self._session = _open_session(request, graph, index, self._stream.ptr)

    def run(self, images: Array) -> dict[str, Array]:
        taken = self._images.take(images)
        n = len(taken)
        request, cupy = self._request, self._cupy
        results = {
            name: cupy.empty((request.batch_size, *request.manifest.taps[name].shape), cupy.float32)
            for name in request.taps
        }
        # The memory of the results may be in use yet by what the caller's stream was given before.
        self._stream.wait_event(cupy.cuda.get_current_stream().record())
        placed = self._images.place(taken, self._stream)
        binding = self._session.io_binding()
        binding.bind_input(IMAGE, "cuda", self._index, np.uint8, placed.shape, placed.data.ptr)
        for name, tap in results.items():
            binding.bind_output(name, "cuda", self._index, np.float32, tap.shape, tap.data.ptr)
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:  # ONNX Runtime's exception classes share no public base
            # What it queued before may yet write to the results, whose memory others will have.
            self._stream.synchronize()
            raise library_failure("ONNX Runtime failed while running the network", error) from None
        self._done.record(self._stream)
        self._done.synchronize()
        return {name: tap[:n] for name, tap in results.items()}


def _open_session(request: CompileRequest, graph: bytes, index: int, stream: int) -> Any:
    import onnxruntime as ort

    # CUDA's libraries come in wheels of their own, where the loader does not look. What is missing shows below, so that
    # the lines printed about it are left out.
    with contextlib.redirect_stdout(io.StringIO()):
        getattr(ort, "preload_dlls", lambda: None)()
    ort.set_default_logger_severity(4)
    options = ort.SessionOptions()
    options.log_severity_level = 4  # a provider that is not taken is looked for below
    settings = {
        "device_id": str(index),
        "user_compute_stream": str(stream),
        "cudnn_conv_algo_search": "EXHAUSTIVE",
        "use_tf32": "0",  # float32 is to be float32, and float16 layers have no use for it
    }
    try:
        # Nothing is computed in integers here, so that nothing is lost where a network holds no fp8.
        without = set(INTEGER_REWRITINGS)
        session = ort.InferenceSession(graph, options, providers=[(PROVIDER, settings)], disabled_optimizers=without)
    except Exception as error:
        raise library_failure(f"ONNX Runtime cannot load {request.network}", error) from None
    if PROVIDER not in session.get_providers():
        raise BackendError(
            "ONNX Runtime would run on the CPU, as it cannot load its CUDA libraries (it needs CUDA 13 and cuDNN 9): "
            "pip install 'nvidia-cudnn-cu13', or use the backend tensorrt."
        )
    return session
