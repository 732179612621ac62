"""Fetching pinned VGG weights from the Hugging Face hub and exporting them.

``hf_hub_download`` deletes what it has when a download is cut off. Half a gigabyte is worth resuming, so the library's
parts are put together here instead: its metadata call, its retrying ``http_get``, and a partial file that stays. What
a partial file holds is never trusted: only the pinned sha256 makes it a weight file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.file_download import http_get

from pc_engine.catalogue import FETCHABLE, PinnedWeights
from pc_engine.datasets.imagenet import imagenet_class_names
from pc_engine.errors import DownloadError, UsageError
from pc_engine.export.model_lock import making
from pc_engine.export.settings import Description
from pc_engine.export.vgg import export_vgg
from pc_engine.files.digest import file_sha256
from pc_engine.say import Say
from pc_engine.shown_text import for_shell

_TIMEOUT = 10.0  # seconds to wait for the hub's first answer


def fetch_vgg(
    name: str,
    models_dir: Path,
    report: Say = lambda _: None,
    *,
    pins: Mapping[str, PinnedWeights] = FETCHABLE,
    endpoint: str | None = None,
) -> Path:
    """Fetch the weights called ``name``, export them to ``models_dir/name`` and return that directory.

    The download lies in ``downloads`` beside ``models_dir`` until the export is done. One that was cut off, by the
    network or by Ctrl-C, goes on where it stopped at the next call.

    Parameters
    ----------
    name
        A key of ``pins``, and of ``ARCHITECTURES``.
    models_dir
        Where installed models live; made if absent.
    report
        Called with a sentence where the model has to be fetched, or another process that does be waited for.
    pins
        What can be fetched.
    endpoint
        Address of the hub; the hub's own, or the environment's ``HF_ENDPOINT``, if None.

    Raises
    ------
    UsageError
        If ``name`` is not among ``pins``.
    DownloadError
        If the file cannot be had or is not the pinned one; says how to get it by hand.
    ModelError
        If something else lies where the model is to be.
    """
    if name not in pins:
        raise UsageError(f"There are no weights '{name}' to fetch, only {', '.join(pins)}.")
    pin, out_dir = pins[name], models_dir / name
    instead = (
        f"get {pin.file} by hand from {pin.page} and run 'pc-engine export {name} --weights {pin.file} --classes "
        f"imagenet --out {for_shell(str(out_dir))}', or use --model lego, which needs no network but knows digit "
        f"objects only."
    )
    with making(name, models_dir, report) as downloads:
        if downloads is None:
            return out_dir
        path = downloads / f"{name}-{pin.revision[:8]}.safetensors"
        if not (path.is_file() and file_sha256(path) == pin.sha256):
            report(f"Fetching {name} from {pin.page} (about 550 MB, once) ...")
            _download(name, pin, path, endpoint, instead)
            _verify(name, pin, path, instead)
        description = Description(imagenet_class_names(), pin.licence, f"{pin.page} @ {pin.revision}")
        export_vgg(name, path, out_dir, description=description)
        path.unlink()
    return out_dir


def _download(name: str, pin: PinnedWeights, path: Path, endpoint: str | None, instead: str) -> None:
    """Bring ``path`` to its full length, from wherever it stands."""
    url = hf_hub_url(pin.repository, pin.file, revision=pin.revision, endpoint=endpoint)
    try:
        metadata = get_hf_file_metadata(url, token=False, timeout=_TIMEOUT)
        with path.open("ab") as stream:
            present = stream.tell()
            if metadata.size is None or present > metadata.size:
                stream.truncate(0)
                present = 0
            http_get(
                metadata.location,
                stream,
                resume_size=present,
                expected_size=metadata.size,
                displayed_filename=path.name,
            )
    except Exception as error:  # the hub library's transport, and so its exceptions, differ between its versions
        kept = path.stat().st_size if path.is_file() else 0
        resume = f", {kept / 1e6:.1f} MB are kept and the next try goes on from there" if kept else ""
        raise DownloadError(
            f"The weights of {name} could not be fetched from {url} ({_reason(error)}{resume}); {instead}"
        ) from None


def _verify(name: str, pin: PinnedWeights, path: Path, instead: str) -> None:
    found = file_sha256(path)
    if found != pin.sha256:
        path.unlink()
        raise DownloadError(
            f"The file fetched for {name} has sha256 {found[:12]}…, expected {pin.sha256[:12]}…, and was deleted: try "
            f"again, or {instead}"
        )


def _reason(error: Exception) -> str:
    if isinstance(error, HfHubHTTPError) and error.response is not None:
        return f"the server answered {error.response.status_code} {error.response.reason_phrase}".rstrip()
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    first_line = (str(error).strip() or "no answer").splitlines()[0].rstrip(".")
    return f"{type(error).__name__}: {first_line}"
