"""``pc-engine doctor``: what works on this machine, and why the rest does not."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from pc_engine.backends import BACKENDS
from pc_engine.catalogue import PACKAGED, list_models
from pc_engine.cli import options
from pc_engine.cli.console import print_json, print_line, remark
from pc_engine.errors import BackendError, MissingPackageError
from pc_engine.files.storage import cache_bytes, cache_directory, models_complaint, models_directory
from pc_engine.hardware.cuda import describe_gpu
from pc_engine.hardware.devices import gpu_reason, gpu_requirements
from pc_engine.hardware.machine import describe_machine
from pc_engine.packages import EXTRA_OF, is_installed

# What optional packages are for, in the order in which they are shown.
_PURPOSES = {
    "pillow_heif": "read HEIC photos",
    "h5py": "read the paper's data and Keras' weights",
    "s3fs": "read s3:// addresses",
    "gcsfs": "read gs:// addresses",
    "aiohttp": "read https:// addresses",
    "ray": "run on several machines",
    "torch": "train networks",
    "matplotlib": "draw charts",
    "supervision": "make supervision.Detections",
    "nvidia.nvimgcodec": "decode on an NVIDIA GPU",
    "cuml": "cluster with cuML's DBSCAN on an NVIDIA GPU",
}
# What an extra of the installation adds: its name, a package that it brings along, and what that is for.
_EXTRAS = (
    *((pin.extra, pin.package, f"make {name}, a network for photos") for name, pin in PACKAGED.items()),
    *((EXTRA_OF[package], package, purpose) for package, purpose in _PURPOSES.items()),
)
# Of these, what is of no use without a GPU.
_OF_GPUS = ("gpu", "cuml")
# Most machines have no GPU, and nothing is to be done there: what one would need comes last.
_NO_DRIVER = "No NVIDIA GPU with a driver was found: runs use the CPU."
_IF_THERE_IS_ONE = "If there is one, it takes what follows."


def doctor(as_json: options.AsJson = False) -> None:
    """Show which backends, devices and optional parts work here, and why the others do not."""
    report, complaint = _examine(), models_complaint()
    if as_json:
        print_json(report)
        if complaint:
            remark(quiet=False)(complaint)
        return
    machine = report["machine"]
    print_line(
        f"machine       {machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB"
        f" ({', '.join(machine['extensions']) or 'no vector extensions found'})"
    )
    cpu, gpu = report["devices"]
    of_gpus = [line for (extra, *_), line in zip(_EXTRAS, report["optional"], strict=True) if extra in _OF_GPUS]
    for line in (*report["backends"], cpu):
        _print_part(line)
    found = gpu["reason"] != _NO_DRIVER
    if found:
        _print_gpu(gpu, of_gpus)
    for line in report["optional"]:
        if line not in of_gpus:
            _print_part(line, otherwise="not installed")
    for entry in report["models"]:
        print_line(f"model         {entry['name']}: {entry['state']}")
    if complaint:
        print_line(complaint)
    print_line(f"models in     {report['models_directory']}")
    print_line(f"cache in      {report['cache_directory']} ({report['cache_bytes'] / 1e6:,.0f} MB)")
    if not found:
        _print_gpu({**gpu, "reason": f"{_NO_DRIVER} {_IF_THERE_IS_ONE}"}, of_gpus, otherwise="not used")


def _print_gpu(gpu: dict[str, Any], extras: list[dict[str, Any]], otherwise: str = "does not work") -> None:
    _print_part(gpu, otherwise=otherwise)
    for part in (*gpu["needs"], *gpu["backends"]):
        _print_part(part, indent="  ")
    for part in extras:
        _print_part(part, indent="  ", otherwise="not installed")


def _examine() -> dict[str, Any]:
    return {
        "machine": describe_machine(),
        "backends": _probe("cpu"),
        "devices": [
            {"name": "cpu", "works": True, "reason": "Always available."},
            _examine_gpu(),
        ],
        "optional": _examine_extras(),
        "models": [{"name": entry.name, "state": entry.state} for entry in list_models()],
        "models_directory": str(models_directory()),
        "cache_directory": str(cache_directory()),
        "cache_bytes": cache_bytes(),
    }


def _examine_gpu() -> dict[str, Any]:
    needs, backends, missing = gpu_requirements(), _probe("cuda"), gpu_reason()
    try:
        found = missing or f"{describe_gpu('cuda')}."
    except BackendError as error:
        missing = found = str(error)
    if not all(need.works for need in needs if need.name == "driver"):
        missing = found = _NO_DRIVER
    complete = all(need.works for need in needs) and any(backend["works"] for backend in backends)
    return {
        "name": "cuda",
        "works": complete and not missing,
        "reason": found,
        "needs": [asdict(need) for need in needs],
        "backends": backends,
    }


def _examine_extras() -> list[dict[str, Any]]:
    found = []
    for extra, package, purpose in _EXTRAS:
        works = is_installed(package)
        reason = f"It is used to {purpose}." if works else str(MissingPackageError(package, extra, purpose))
        found.append({"name": package, "works": works, "reason": reason})
    return found


def _probe(device: str) -> list[dict[str, Any]]:
    probes = {name: backend.probe(device) for name, backend in BACKENDS.items() if device in backend.devices}
    return [
        {"name": name, "works": probe.available, "reason": probe.reason, "precisions": list(probe.precisions)}
        for name, probe in probes.items()
    ]


def _print_part(part: dict[str, Any], indent: str = "", otherwise: str = "does not work") -> None:
    print_line(f"{indent + part['name']:<13} {'works' if part['works'] else otherwise}: {part['reason']}")
