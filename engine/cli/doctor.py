"""``pc-engine doctor``: what works on this machine, and why the rest does not."""

from __future__ import annotations

from typing import Any

from pc_engine.backends import BACKENDS
from pc_engine.catalogue import list_models
from pc_engine.cli import options
from pc_engine.cli.console import print_json, print_line
from pc_engine.devices import gpu_reason
from pc_engine.machine import describe_machine
from pc_engine.storage import cache_directory, models_directory


def doctor(as_json: options.AsJson = False) -> None:
    """Say which backends and devices work here, and why the others do not."""
    report = _examine()
    if as_json:
        print_json(report)
        return
    machine = report["machine"]
    print_line(
        f"machine       {machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB"
        f" ({', '.join(machine['extensions']) or 'no vector extensions found'})"
    )
    for line in report["backends"] + report["devices"]:
        _print_part(line)
        for part in line.get("backends", ()):
            _print_part(part, indent="  ")
    for entry in report["models"]:
        print_line(f"model         {entry['name']}: {entry['state']}")
    print_line(f"models in     {report['models_directory']}")
    print_line(f"cache in      {report['cache_directory']}")


def _examine() -> dict[str, Any]:
    gpu = gpu_reason()
    return {
        "machine": describe_machine(),
        "backends": _probe("cpu"),
        "devices": [
            {"name": "cpu", "works": True, "reason": "Always there."},
            {
                "name": "cuda",
                "works": False,
                "reason": gpu or "A GPU is there, but this version runs on the CPU only.",
                "backends": _probe("cuda"),
            },
        ],
        "models": [{"name": entry.name, "state": entry.state} for entry in list_models()],
        "models_directory": str(models_directory()),
        "cache_directory": str(cache_directory()),
    }


def _probe(device: str) -> list[dict[str, Any]]:
    probes = {name: backend.probe(device) for name, backend in BACKENDS.items() if device in backend.devices}
    return [
        {"name": name, "works": probe.available, "reason": probe.reason, "precisions": list(probe.precisions)}
        for name, probe in probes.items()
    ]


def _print_part(part: dict[str, Any], indent: str = "") -> None:
    print_line(f"{indent + part['name']:<14}{'works' if part['works'] else 'does not work'}: {part['reason']}")
