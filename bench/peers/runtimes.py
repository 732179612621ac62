"""The network alone on the inference libraries as they come, and pc-engine itself, as peers of each other."""

from __future__ import annotations

from itertools import cycle, islice
from typing import Any

import numpy as np

from pc_engine.backbone import IMAGE, CompileRequest
from pc_engine.backends.openvino import PRECISION_HINT, import_openvino
from pc_engine.backends.signal_stack import signal_stack_kept
from pc_engine.bench.peers.contract import Scope, Workload
from pc_engine.bench.throughput import run_batches
from pc_engine.engine import Engine
from pc_engine.errors import BackendError
from pc_engine.graph.prepare import open_graph


class OnnxRuntimePeer:
    """The network in an ONNX Runtime session with its default options."""

    name = "ONNX Runtime"
    letter = "c"
    scope: Scope = "network"
    note = "default session"

    def __init__(self, request: CompileRequest) -> None:
        import onnxruntime as ort

        self.precision = request.precision
        options = ort.SessionOptions()
        options.intra_op_num_threads = request.threads
        self._taps = request.taps
        graph = open_graph(request.network, request.manifest, request.taps)
        self._session = ort.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def taps(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Return what the network says about uint8 images (n, H, W, 3)."""
        return dict(zip(self._taps, self._session.run(list(self._taps), {IMAGE: images}), strict=True))

    def run(self, work: Workload) -> list[int]:
        """Run the batches; count nothing."""
        for images in islice(cycle(work.batches), work.times):
            self._session.run(list(self._taps), {IMAGE: images})
        return []

    def close(self) -> None:
        """Free the network."""
        del self._session


class OpenVinoPeer:
    """The network in OpenVINO's own throughput mode: as many asynchronous requests as it asks for."""

    name = "OpenVINO async"
    letter = "d"
    scope: Scope = "network"

    def __init__(self, request: CompileRequest) -> None:
        ov = import_openvino()

        self.precision = request.precision
        self._taps = request.taps
        core = ov.Core()
        graph = core.read_model(model=open_graph(request.network, request.manifest, request.taps).SerializeToString())
        shape = graph.input(IMAGE).partial_shape
        shape[0] = request.batch_size
        graph.reshape({IMAGE: shape})
        hints = {
            "PERFORMANCE_HINT": "THROUGHPUT",
            "INFERENCE_PRECISION_HINT": PRECISION_HINT[request.precision],
            "INFERENCE_NUM_THREADS": request.threads,
        }
        with signal_stack_kept():
            compiled = core.compile_model(graph, "CPU", hints)
        self._queue: Any = ov.AsyncInferQueue(compiled)
        self._found: dict[str, np.ndarray] = {}
        self.note = f"throughput mode, {len(self._queue)} requests of {request.batch_size} images"

    def taps(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Return what the network says about uint8 images (n, H, W, 3), a full batch."""
        self._queue.set_callback(self._keep)
        self._queue.start_async({IMAGE: images})
        self._queue.wait_all()
        return self._found

    def run(self, work: Workload) -> list[int]:
        """Run the batches; count nothing."""
        self._queue.set_callback(lambda *_: None)
        for images in islice(cycle(work.batches), work.times):
            self._queue.start_async({IMAGE: images}, share_inputs=True)
        self._queue.wait_all()
        return []

    def close(self) -> None:
        """Free the network."""
        del self._queue

    def _keep(self, request: Any, _: Any) -> None:
        self._found = {name: request.get_output_tensor(k).data.copy() for k, name in enumerate(self._taps)}


class EnginePeer:
    """pc-engine, from files to rows."""

    name = "pc-engine"
    letter = "e"
    scope: Scope = "end to end"

    def __init__(self, engine: Engine) -> None:
        self.precision = engine.precision
        self.note = engine.backend
        self.engine = engine

    def taps(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Return what the network says about uint8 images (n, H, W, 3)."""
        return self.engine.network.infer(images)

    def run(self, work: Workload) -> list[int]:
        """Count, and point, from files."""
        counts = []
        for result in self.engine.run_paths(work.paths):
            if result.count is None:
                raise BackendError(f"pc-engine did not count {result.path}: {result.error}")
            counts.append(result.count)
        return counts

    def close(self) -> None:
        """Free the network."""
        self.engine.close()


class EngineNetworkPeer(EnginePeer):
    """The network of a pc-engine alone: what its run would be worth if all else cost nothing."""

    scope: Scope = "network"

    def run(self, work: Workload) -> list[int]:
        """Run the batches; count nothing."""
        run_batches(self.engine.network, work.batches, work.times)
        return []

    def close(self) -> None:
        """Nothing: the engine is another peer's."""
