"""What does the images of ``pc-engine run``: an engine of this process, or what shares them out to several."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from pc_engine.catalogue import EMBEDDED, default_mode
from pc_engine.cli.run_options import EngineOptions, RunOptions
from pc_engine.engine import Engine
from pc_engine.hardware.devices import open_gpus
from pc_engine.say import Say
from pc_engine.selection.device_choice import choose_device
from pc_engine.selection.execution import AUTO, Execution
from pc_engine.selection.selection import require_precision

if TYPE_CHECKING:
    from pc_engine.distributed.shared_engine import SharedEngine
    from pc_engine.runs.run_directory import RunDirectory


def engine_options(asked: RunOptions, earlier: Mapping[str, Any], say: Say) -> dict[str, Any]:
    """Return what each engine is made with; what was left out is as an ``earlier`` run into the directory had it."""
    of_engine = asked.engine
    # The demo's scenes show what the embedded model knows, whatever there is for photos.
    execution = Execution(**_as_before(earlier, asdict(of_engine.execution)))
    if not asked.workers.elsewhere:
        _require(execution)
    model = EMBEDDED if of_engine.model is None and asked.of_demo else of_engine.model
    options = {
        **vars(of_engine),
        "model": model,
        "mode": of_engine.mode or _mode_left_out(replace(of_engine, model=model), earlier, say),
        **asdict(execution),
    }
    del options["execution"]
    return options


def named(execution: Execution) -> dict[str, str]:
    """Return what of ``execution`` was asked for by name and rows in one directory share, as `Engine.identity` has it.

    Asked before what was left out is taken from them, which need not go with it.
    """
    device = execution.device.partition(":")[0]
    given = {"backend": execution.backend, "precision": execution.precision, "device": device}
    return {name: value for name, value in given.items() if value != AUTO}


def _require(execution: Execution) -> None:
    """Refuse what this machine cannot do, before a mode is chosen, or a model fetched or made for nothing."""
    if execution.device == execution.backend == execution.precision == AUTO:
        return
    # A GPU that only its backend asks for is looked for as one that is named.
    device = choose_device(replace(execution, device=choose_device(execution)))
    require_precision(execution.precision, execution.backend, device)


def _mode_left_out(asked: EngineOptions, earlier: Mapping[str, Any], say: Say) -> str:
    """Return the mode of a run that names none, see `options.ModeOfRun`; told counts, c2p needs no counter."""
    if isinstance(earlier.get("mode"), str):
        return str(earlier["mode"])
    if asked.cluster or asked.classes:
        return "p2c"
    mode = "c2p" if asked.count is not None else default_mode(asked.model)
    if mode != "c2p":
        say(f"Using mode {mode}, as the model has no counter: the other modes need one (pc-engine fit-counter).")
    return mode


def _as_before(earlier: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options with what is left to choose, `AUTO`, chosen as an earlier run into the directory did."""
    chosen = {name: value for name, value in earlier.items() if isinstance(value, str)}
    return {name: chosen.get(name, value) if value == AUTO else value for name, value in asked.items()}


def open_engine(
    asked: RunOptions, rows: RunDirectory | None, options: Mapping[str, Any], say: Say
) -> Engine | SharedEngine:
    """Return an engine made with ``options``; it is several only where there are ``rows`` to share."""
    if rows is None or not asked.workers.shared:
        engine = Engine(report=say, **options)
        # Parts of a job array have GPUs of their own by what starts them.
        if asked.disk.shard is None and (gpus := open_gpus(str(options["device"]), engine.device)) > 1:
            say(f"One of {gpus} GPUs is used: --processes {gpus}, with --out, uses all of them.")
        return engine
    # Here, as most runs have no use for it.
    from pc_engine.distributed.shared_engine import SharedRun

    shared = SharedRun(rows.share(), asked.sources, overlays=asked.disk.pictures, report=say)
    if asked.workers.processes is not None:
        from pc_engine.distributed.process_engine import ProcessEngine

        return ProcessEngine(shared, processes=asked.workers.processes, **options)
    from pc_engine.distributed.ray_engine import RayEngine

    return RayEngine(shared, address=asked.workers.ray_address, cpus=asked.workers.ray_cpus, **options)
