"""Convolutions by cuDNN's graph interface: one kernel for products, bias and ReLU, the fastest of those on offer.

cuDNN proposes plans in the order in which it expects them to do well. Which is the fastest depends on the card: each of
the first few is timed once, when a network is compiled, and kept by number and name.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import astuple, dataclass
from types import ModuleType
from typing import Any

import numpy as np

from pc_engine.backends.array_layers import Convolution
from pc_engine.errors import BackendError, DeviceMemoryError, first_line
from pc_engine.hardware.cuda import library_failure
from pc_engine.kernels.array_module import Array

_INSTALL = "pip install 'pc-engine[cudnn]'"
_OLDEST = 90000
# Plans that are timed at most, and how much slower than the best a first run may be to be timed on.
_TRIED = 16
_HOPELESS = 2.0
_RUNS = 5
# Random values that arrays are filled with to time plans, again and again: products of zeros take less power.
_SAMPLE = 1 << 20


@dataclass(frozen=True)
class Plan:
    """One of the plans that cuDNN proposes for a convolution: its place among them, and its name.

    ``clips_itself`` is False where it leaves the ceiling of the convolution to a kernel that follows.
    """

    index: int
    name: str
    clips_itself: bool = True


def load_cudnn() -> ModuleType:
    """Import cuDNN's Python interface.

    Raises
    ------
    BackendError
        If it is absent, or cuDNN itself is absent or too old; one sentence that says what to install.
    """
    try:
        cudnn = importlib.import_module("cudnn")
        version = int(cudnn.backend_version())
    except ModuleNotFoundError as error:
        raise BackendError(
            f"cuDNN's Python interface is not installed (no module '{error.name}'): {_INSTALL}."
        ) from None
    except Exception as error:  # whatever it says where the library that it loads is absent or does not fit
        raise BackendError(f"cuDNN cannot be loaded ({first_line(error)}): {_INSTALL}.") from None
    if version < _OLDEST:
        raise BackendError(f"cuDNN {version} is too old, version 9 is needed: {_INSTALL}.")
    return cudnn


class Kernel:
    """A convolution that runs by one plan, on the stream of a handle.

    Parameters
    ----------
    cudnn, handle
        The module, and a handle of its `create_handle`.
    convolution
        In float16, summed in float32.
    plan
        One that `choose_plan` gave on a machine with the same GPU, driver and cuDNN; without one none is ready to run.

    Raises
    ------
    BackendError
        If cuDNN has no kernel for it, or proposes other plans than it did.
    """

    def __init__(
        self,
        cudnn: ModuleType,
        handle: Any,
        convolution: Convolution,
        plan: Plan | None = None,
        *,
        clips_itself: bool = True,
    ) -> None:
        self._cudnn, self._handle, self._convolution = cudnn, handle, convolution
        self._clips_itself = clips_itself if plan is None else plan.clips_itself
        self._ceiling = convolution.ceiling if convolution.relu else math.inf
        half, single = cudnn.data_type.HALF, cudnn.data_type.FLOAT
        graph = cudnn.pygraph(io_data_type=half, intermediate_data_type=single, compute_data_type=single, handle=handle)
        tensors = [
            graph.tensor(name=name, dim=_channels_first(shape), stride=_strides(shape), data_type=half)
            for name, shape in (
                ("images", convolution.images),
                ("weights", convolution.weights),
                ("bias", (1, 1, 1, convolution.filters)),
            )
        ]
        top, left, bottom, right = convolution.pads
        with _errors(cudnn, f"has no kernel for {convolution}"):
            sums = graph.conv_fprop(
                image=tensors[0],
                weight=tensors[1],
                pre_padding=[top, left],
                post_padding=[bottom, right],
                stride=list(convolution.stride),
                dilation=list(convolution.dilation),
                compute_data_type=single,
            )
            result = graph.bias(name="bias", input=sums, bias=tensors[2])
            if convolution.relu:
                bounds = {"lower_clip": 0.0, "upper_clip": self._ceiling} if self._clips else {}
                result = graph.relu(name="relu", input=result, **bounds)
            shape = convolution.result
            result.set_output(True).set_data_type(half).set_dim(_channels_first(shape)).set_stride(_strides(shape))
            graph.validate()
            graph.build_operation_graph()
            graph.create_execution_plans([cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK])
            graph.check_support()
        self._graph, self._tensors, self._plan = graph, (*tensors, result), -1
        self.workspace_bytes = 0
        if plan is not None:
            if plan not in self.plans():
                raise BackendError(f"cuDNN has other kernels for {convolution} than when it was compiled.")
            self.prepare(plan)

    def plans(self) -> list[Plan]:
        """Return the plans on offer."""
        names = (self._graph.get_plan_name_at_index(k) for k in range(self._graph.get_execution_plan_count()))
        return [Plan(k, str(name), self._clips_itself) for k, name in enumerate(names)]

    @property
    def _clips(self) -> bool:
        """Whether cuDNN is to apply the ceiling, where there is one."""
        return self._clips_itself and not math.isinf(self._ceiling)

    def prepare(self, plan: Plan) -> None:
        """Make a plan the one that runs."""
        with _errors(self._cudnn, f"cannot run {plan.name} for {self._convolution}"):
            self._graph.build_plan_at_index(plan.index)
        self._plan = plan.index
        self.workspace_bytes = int(self._graph.get_workspace_size_plan_at_index(plan.index))

    def __call__(self, images: Array, weights: Array, bias: Array) -> Array:
        """Queue it on the handle's stream; return the result (N, H, W, filters), float16.

        Raises
        ------
        BackendError
            If cuDNN reports an error.
        """
        import cupy

        result = cupy.empty(self._convolution.result, cupy.float16)
        workspace = cupy.empty(max(self.workspace_bytes, 1), cupy.uint8)
        arrays = (images, weights, bias, result)
        pack = {tensor: array.data.ptr for tensor, array in zip(self._tensors, arrays, strict=True)}
        with _errors(self._cudnn, f"failed while running {self._convolution}"):
            self._graph.execute_plan_at_index(pack, workspace.data.ptr, self._plan, handle=self._handle)
        if not self._clips and not math.isinf(self._ceiling):
            cupy.minimum(result, cupy.float16(self._ceiling), out=result)
        return result


def choose_plan(cudnn: ModuleType, handle: Any, convolution: Convolution, time: Callable[..., float]) -> Plan:
    """Return the fastest of the first plans for a convolution.

    ``time(run, times)`` returns the seconds on the GPU that one of so many runs takes.

    Raises
    ------
    BackendError
        If none of them runs; a `DeviceMemoryError` if the last one got no memory.
    """
    try:
        return _choose_plan(Kernel(cudnn, handle, convolution), convolution, time)
    except BackendError:
        if math.isinf(convolution.ceiling):
            raise
        return _choose_plan(Kernel(cudnn, handle, convolution, clips_itself=False), convolution, time)


def _choose_plan(kernel: Kernel, convolution: Convolution, time: Callable[..., float]) -> Plan:
    arrays = [_random(shape) for shape in (convolution.images, convolution.weights, (convolution.filters,))]
    best, least = None, float("inf")
    last = BackendError("it proposes none")
    for plan in kernel.plans():
        try:
            kernel.prepare(plan)
            seconds = time(lambda: kernel(*arrays), 1)
            if seconds < _HOPELESS * least:
                seconds = time(lambda: kernel(*arrays), _RUNS)
        # Heuristics propose what may turn out not to fit. Words alone are kept: an error holds on to its memory.
        except BackendError as error:
            last = type(error)(str(error))
            continue
        except MemoryError:
            last = DeviceMemoryError(f"The GPU has no memory left for {plan.name}: use a smaller batch size.")
            continue
        if seconds < least:
            best, least = plan, seconds
        if plan.index + 1 >= _TRIED and best is not None:
            break
    if isinstance(last, DeviceMemoryError) and best is None:
        raise last
    if best is None:
        raise BackendError(f"cuDNN has no kernel for {convolution} ({last}).")
    return best


def choose_plans(
    cudnn: ModuleType,
    handle: Any,
    layers: Mapping[str, Convolution],
    time: Callable[..., float],
    known: MutableMapping[str, Plan],
) -> dict[str, Plan]:
    """Return the fastest plan for each layer.

    ``known`` has the plans of convolutions that were timed before, by `convolution_key`; it gets those that were not,
    and others for those that are no longer on offer.
    """
    chosen: dict[str, Plan] = {}
    for convolution in layers.values():
        key = convolution_key(convolution)
        if key in chosen:
            continue
        plan = known.get(key)
        if plan is None or not _is_on_offer(cudnn, handle, convolution, plan):
            plan = known[key] = choose_plan(cudnn, handle, convolution, time)
        chosen[key] = plan
    return {name: chosen[convolution_key(convolution)] for name, convolution in layers.items()}


def _is_on_offer(cudnn: ModuleType, handle: Any, convolution: Convolution, plan: Plan) -> bool:
    """Whether cuDNN still proposes a plan: its libraries may have changed with the same version, or a file did."""
    try:
        return plan in Kernel(cudnn, handle, convolution, clips_itself=plan.clips_itself).plans()
    except BackendError:
        return False


def convolution_key(convolution: Convolution) -> str:
    """Return a text that is the same for equal convolutions alone."""
    return json.dumps([str(value) for value in astuple(convolution)])


@contextlib.contextmanager
def _errors(cudnn: ModuleType, what: str) -> Iterator[None]:
    """Raise cuDNN's errors in the ``with`` block as `library_failure` of ``what``."""
    try:
        yield
    except (RuntimeError, cudnn.cudnnGraphNotSupportedError) as error:
        raise library_failure(f"cuDNN {what}", error) from None


def _random(shape: tuple[int, ...]) -> Array:
    import cupy

    # NumPy's: CuPy's need cuRAND, which nothing else here does.
    sample = np.random.default_rng(0).standard_normal(_SAMPLE, np.float32).astype(np.float16)
    return cupy.resize(cupy.asarray(sample), shape)


def _channels_first(shape: tuple[int, ...]) -> list[int]:
    n, height, width, channels = shape
    return [n, channels, height, width]


def _strides(shape: tuple[int, ...]) -> list[int]:
    """Strides of (N, C, H, W) in an array (N, H, W, C)."""
    _, height, width, channels = shape
    return [height * width * channels, 1, width * channels, channels]
