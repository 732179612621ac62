"""From an ONNX graph to a TensorRT engine. Needs no GPU with TensorRT-RTX."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pc_engine.backbone import IMAGE, CompileRequest
from pc_engine.backends.tensorrt_library import Library
from pc_engine.errors import BackendError
from pc_engine.files.storage import FileCache
from pc_engine.hardware.cuda import library_failure

if TYPE_CHECKING:
    import onnx

#: Precisions that a graph can be typed for.
PRECISIONS = ("fp32", "fp16", "int8", "fp8")
#: The first compute capability that multiplies fp8: that of Ada.
_FIRST_WITH_FP8 = (8, 9)
# Turing, for which TensorRT-RTX has no products in float32, nor so for what stays float32 around 8-bit levels.
_TURING = (7, 5)
#: Why TensorRT-RTX is not offered int8, and what to do.
NO_INT8 = "TensorRT-RTX does not multiply 8-bit integers: for int8 pip install 'pc-engine[tensorrt]'"


@dataclass(frozen=True)
class Target:
    """What an engine is built for.

    Attributes
    ----------
    batch_size
        Images in a batch: the only size that the engine takes, so that nothing is tuned or checked twice, and no kernel
        has to suit others.
    capability
        Compute capability of the GPU; None for any that the library supports, which TensorRT-RTX alone can build for.
    current
        Whether it is built for the current GPU instead. TensorRT does that in any case.
    timings
        Name under which to keep measured kernel times in the cache; empty for none.
    """

    batch_size: int
    capability: tuple[int, int] | None = None
    current: bool = False
    timings: str = ""


def precisions_of(library: Library, capability: tuple[int, int]) -> tuple[str, ...]:
    """Return those of `PRECISIONS` that the library computes in on a card of this compute capability."""
    rtx = library.name == "tensorrt_rtx"
    left_out = {
        "fp32": rtx and capability == _TURING,
        "int8": rtx,
        "fp8": capability < _FIRST_WITH_FP8,
    }
    return tuple(precision for precision in PRECISIONS if not left_out.get(precision))


def refuse_other_precisions(precision: str, library: Library, capability: tuple[int, int]) -> None:
    """Raise `BackendError` unless the library computes in ``precision`` on a card of this compute capability."""
    offered = precisions_of(library, capability)
    if precision in offered:
        return
    if precision == "int8":
        raise BackendError(f"{NO_INT8}, or run at {' or '.join(offered)}.")
    raise BackendError(f"{library.title} runs {', '.join(offered)} here, not {precision}.")


def typed_graph(request: CompileRequest) -> onnx.ModelProto:
    """Return the network from pixels to taps with the types that it is to be computed in.

    Raises
    ------
    ModelError
        If the file cannot be read.
    BackendError
        If it cannot run at the precision asked for.
    """
    from pc_engine.graph.half import cast_to_half
    from pc_engine.graph.prepare import open_graph
    from pc_engine.graph.signed import make_signed

    if request.precision not in PRECISIONS:
        raise BackendError(f"TensorRT runs {', '.join(PRECISIONS)} here, not {request.precision}.")
    model = open_graph(request.network, request.manifest, request.taps)
    if any(node.op_type == "QuantizeLinear" for node in model.graph.node):
        make_signed(model)
    if request.precision != "fp32":
        cast_to_half(model, around_levels=True)
    return model


def build_engine(library: Library, graph: bytes, target: Target) -> bytes:
    """Return the serialised engine of an ONNX graph with one input, ``image``.

    Raises
    ------
    DeviceMemoryError
        If the memory of the GPU does not suffice for building.
    BackendError
        If TensorRT cannot read the graph, or build it.
    """
    library.log.forget()
    try:
        return _build(library, graph, target)
    except RuntimeError as error:  # some calls raise where others give False
        raise library_failure(f"{library.title} failed while building the engine", error) from None


def _build(library: Library, graph: bytes, target: Target) -> bytes:
    trt, check = library.trt, library.check
    builder = library.create("Builder", library.logger, action="starting to build")
    network = check(builder.create_network(0), "starting a network")
    parser = library.create("OnnxParser", network, library.logger, action="starting to read the network")
    if not parser.parse(graph):
        raise BackendError(f"{library.title} cannot read the network: {_parser_errors(parser, library)}")
    config = check(builder.create_builder_config(), "configuring the build")
    _fix_batch(library, builder, network, config, target.batch_size)
    # 10 bits of mantissa: at fp32 that would not be fp32, and at the others float32 is where it is meant to be exact.
    config.clear_flag(trt.BuilderFlag.TF32)
    _set_capability(library, config, target)
    with _timing_cache(library, config, target.timings):
        engine = check(builder.build_serialized_network(network, config), "building the engine")
    return bytes(engine)


def _parser_errors(parser: Any, library: Library) -> str:
    errors = [parser.get_error(k) for k in range(parser.num_errors)]
    if not errors:
        return library.log.reason()
    text = (str(errors[0].desc()).strip().splitlines() or ["no reason given"])[0]
    return f"{text} (at {errors[0].node_operator()} '{errors[0].node_name()}')"


def _fix_batch(library: Library, builder: Any, network: Any, config: Any, batch_size: int) -> None:
    names = [network.get_input(k).name for k in range(network.num_inputs)]
    if names != [IMAGE]:
        raise BackendError(
            f"{library.title} found the inputs {names} where there should be one, '{IMAGE}': report this."
        )
    image = network.get_input(0)
    # By the profile alone it would be one of many sizes that could come.
    image.shape = shape = (batch_size, *tuple(image.shape)[1:])
    profile = library.check(builder.create_optimization_profile(), "making a profile")
    # Where the binding returns a result it is a bool, and None where it raises instead.
    if profile.set_shape(IMAGE, shape, shape, shape) is False or config.add_optimization_profile(profile) < 0:
        raise library.log.error(f"setting the batch size to {batch_size}", library.title)


def _set_capability(library: Library, config: Any, target: Target) -> None:
    """Name the card to TensorRT-RTX, which else builds as without a GPU: for many, all of them newer than Turing."""
    known = getattr(library.trt, "ComputeCapability", None)
    if target.current:
        name = "CURRENT"
    elif target.capability is not None:
        name = "SM{}{}".format(*target.capability)
    else:
        return
    capability = getattr(known, name, None)
    if capability is not None:
        config.num_compute_capabilities = 1
        library.check(config.set_compute_capability(capability, 0), "naming the card")


@contextlib.contextmanager
def _timing_cache(library: Library, config: Any, name: str) -> Any:
    """Build with the kernel times of earlier builds, and keep those of this one.

    TensorRT-RTX measures nothing while it builds, and would look for a GPU if it were given a cache.
    """
    if not name or library.name == "tensorrt_rtx":
        yield
        return
    files = FileCache()
    path = files.get(name)
    known = b"" if path is None else path.read_bytes()
    # A cache of another version or card is refused; an empty one is not.
    for content in (known, b""):
        timings = config.create_timing_cache(content)
        if timings is not None and config.set_timing_cache(timings, False):
            break
    library.log.forget()  # what it said of a cache that it refused
    yield
    measured = config.get_timing_cache()
    serialised = None if measured is None else measured.serialize()
    if serialised is not None:
        # Without a place to keep them the next build measures again.
        with contextlib.suppress(OSError):
            files.put(name, lambda target: target.write_bytes(bytes(serialised)))
