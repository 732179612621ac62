"""How the files of a run are decoded: by threads or by processes, within which limits, and what by a GPU."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from pc_engine.arguments import check_seconds, whole_number
from pc_engine.decoding.decode import MAX_PIXELS, Decode, Limits, decode_bytes, lift_pillow_limit
from pc_engine.decoding.decode_device import DeviceDecoder
from pc_engine.decoding.isolated_decoder import IMAGE_SECONDS, IsolatedDecoder
from pc_engine.decoding.pixel_room import room_for
from pc_engine.errors import BackendError, MissingPackageError, UsageError
from pc_engine.say import Say


@dataclass(frozen=True)
class Decoding:
    """How to decode the files of a run.

    Attributes
    ----------
    max_pixels
        Images with more pixels are refused, by their headers.
    isolate
        Decode in processes: one that crashes, hangs or takes too much memory costs the row of its image.
    image_seconds
        With ``isolate``, how long one image may take; None for a minute. A thread could not be ended.

    Raises
    ------
    UsageError
        If a value is of another type, a number is not positive or a time too long, or there is a time limit without
        ``isolate``.
    """

    max_pixels: int = MAX_PIXELS
    isolate: bool = False
    image_seconds: float | None = None

    def __post_init__(self) -> None:
        whole_number("max_pixels", self.max_pixels)
        if not isinstance(self.isolate, bool):
            raise UsageError(f"isolate is {self.isolate!r:.60}, expected True or False.")
        if self.image_seconds is None:
            return
        check_seconds("image_seconds", self.image_seconds)
        if not self.isolate:
            raise UsageError(
                "A time limit for an image needs decoding in processes that can be stopped: add --isolate."
            )


DEFAULT_DECODING = Decoding()


class Decoders:
    """What decodes the files of an engine's runs.

    Parameters
    ----------
    settings
        How.
    workers
        Threads, or processes, that decode.
    device
        ``"cuda:N"`` where the GPU is to decode what it can, else None.
    report
        Called with a sentence for the user.

    Attributes
    ----------
    decode
        Decodes an image held in memory on the CPU; see `decode_bytes`.
    on_device
        What decodes plain JPEGs on the GPU; None for the cores alone.
    """

    decode: Decode

    def __init__(self, settings: Decoding, workers: int, device: str | None, report: Say = lambda _: None) -> None:
        lift_pillow_limit(settings.max_pixels)
        room = room_for(settings.max_pixels)
        self._isolated: IsolatedDecoder | None = None
        self.on_device: DeviceDecoder | None = None
        if settings.isolate:
            seconds = settings.image_seconds or IMAGE_SECONDS
            self._isolated = IsolatedDecoder(workers, max_pixels=settings.max_pixels, seconds=seconds, room=room)
            self.decode = self._isolated.decode
            return
        self.decode = partial(decode_bytes, limits=Limits(settings.max_pixels, room.taken))
        if device is not None:
            try:
                self.on_device = DeviceDecoder(device, workers, self.decode, settings.max_pixels, report)
            except (MissingPackageError, BackendError) as error:
                report(f"Photos are decoded on the CPU. {error}")

    def close(self) -> None:
        """End threads and processes."""
        for decoder in (self.on_device, self._isolated):
            if decoder is not None:
                decoder.close()
