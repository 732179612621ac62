"""``pc-engine bench``: measurements on this machine."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from pc_engine.cli import options
from pc_engine.cli.ablation import ablation
from pc_engine.cli.bench_tables import (
    print_decoding,
    print_isolation,
    print_kernels,
    print_peers,
    print_sweep,
    print_throughput,
)
from pc_engine.cli.console import print_answer, progress, remark
from pc_engine.cli.group import Group
from pc_engine.files.durable import write_json
from pc_engine.files.out_folder import check_makeable, make_folder
from pc_engine.selection.execution import Execution

app = typer.Typer(
    cls=Group,
    help="Measure throughput (a run and its stages, its peers, the kernels, decoding), and what each setting is worth.",
    no_args_is_help=True,
)
app.command("ablation")(ablation)

Source = Annotated[
    str, typer.Argument(metavar="SOURCE", help="A folder, file or glob, or random:N for N generated photos.")
]


def _n(default: str) -> Any:
    """Return the option of how many images a run has; ``default`` says how many where it is omitted."""
    return typer.Option(
        "--n", help=f"Images per run; the photos are repeated if there are fewer; if omitted, {default}."
    )


def _repeats(default: str) -> Any:
    """Return the option of how often all is measured; ``default`` says how often where it is omitted."""
    return typer.Option("--repeats", help=f"Runs to take the median of; if omitted, {default}.")


ChartOut = Annotated[Path | None, options.out("Directory for the figures as JSON and a PNG chart.")]


@app.command("throughput")
def throughput(
    source: Source,
    mode: options.Mode = "c2p",
    model: options.Model = None,
    backend: options.Backend = "auto",
    precision: options.Precision = "auto",
    device: options.Device = "auto",
    batch_size: options.BatchSize = None,
    workers: options.Workers = None,
    n: Annotated[int | None, _n("512, with --sweep 128")] = None,
    repeats: Annotated[int | None, _repeats("5, with --sweep 3")] = None,
    sweep: Annotated[
        bool, typer.Option("--sweep", help="Try every batch size, precision and number of workers that is not given.")
    ] = False,
    out: ChartOut = None,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
) -> None:
    """Measure a run, and its stages alone: decoding, the network, post-processing.

    A counter or signatures that the model lacks are filled in at random: the speed is the same.
    """
    from pc_engine.bench.charts import sweep_chart, throughput_chart
    from pc_engine.bench.photos import photos_of
    from pc_engine.bench.sweep import sweep_throughput
    from pc_engine.bench.throughput import ThroughputSettings, measure_throughput

    settings = ThroughputSettings(
        model=model,
        mode=mode,
        execution=Execution(backend, precision, device, batch_size),
        workers=workers,
        n=n if n is not None else 128 if sweep else ThroughputSettings.n,
        repeats=repeats if repeats is not None else 3 if sweep else ThroughputSettings.repeats,
    )
    _check_out(out)
    silent = quiet or as_json
    with photos_of(source) as photos, progress("photos", quiet=silent, unit="runs") as tracker:
        if sweep:
            rows = sweep_throughput(photos, settings, report=remark(silent), progress=tracker.restart)
        else:
            report = measure_throughput(photos, settings, report=remark(silent), progress=tracker.restart).to_dict()
    if sweep:
        store = partial(_store, out, f"sweep-{_name(model)}-{mode}", rows, sweep_chart)
        print_answer({"runs": rows}, lambda _: print_sweep(rows), quiet=quiet, as_json=as_json, store=store)
    else:
        name = f"throughput-{report['model']}-{mode}-{report['precision']}"
        store = partial(_store, out, name, report, throughput_chart)
        print_answer(report, print_throughput, quiet=quiet, as_json=as_json, store=store)


def _check_out(out: Path | None) -> None:
    """Find out before hours of measuring whether the figures can be written."""
    if out is None:
        return
    from pc_engine.bench.charts import require_charts

    require_charts()
    check_makeable(out)


def _store(out: Path | None, name: str, value: Any, chart: Callable[[Any, Path], None]) -> None:
    """Write figures and their chart into ``out``, if that is given."""
    if out is not None:
        make_folder(out)
        write_json(out / f"{name}.json", value)
        chart(value, out / f"{name}.png")


def _name(model: str | None) -> str:
    return "default" if model is None else Path(model).name


@app.command("peers")
def peers(
    source: Source,
    model: options.Model = None,
    backend: options.Backend = "auto",
    batch_size: options.BatchSize = None,
    workers: options.Workers = None,
    n: Annotated[int | None, _n("128")] = None,
    repeats: Annotated[int | None, _repeats("5")] = None,
    no_compile: Annotated[
        bool, typer.Option("--no-compile", help="Do not try torch.compile, which takes a minute.")
    ] = False,
    out: ChartOut = None,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
) -> None:
    """Compare mode c2p with its peers on the CPU: same photos and weights, checked to agree, then timed in turn.

    (a) PyTorch eager, Pillow and scikit-learn, photo by photo and with the network in batches; (b) PyTorch with worker
    processes, channels_last, autocast or torch.compile; (c) ONNX Runtime and (d) OpenVINO's throughput mode, network
    only; (e) pc-engine.
    """
    from pc_engine.bench.charts import peers_chart
    from pc_engine.bench.peers.comparison import MODE, compare_with_peers
    from pc_engine.bench.photos import photos_of
    from pc_engine.bench.throughput import ThroughputSettings

    settings = ThroughputSettings(
        model=model,
        mode=MODE,
        execution=Execution(backend, batch_size=batch_size),
        workers=workers,
        n=128 if n is None else n,
        repeats=ThroughputSettings.repeats if repeats is None else repeats,
    )
    _check_out(out)
    silent = quiet or as_json
    with photos_of(source) as photos, progress("photos", quiet=silent, unit="runs") as tracker:
        report = compare_with_peers(
            photos, settings, try_compile=not no_compile, report=remark(silent), progress=tracker.restart
        ).to_dict()
    store = partial(_store, out, f"peers-{report['model']}", report, peers_chart)
    print_answer(report, print_peers, quiet=quiet, as_json=as_json, store=store)


@app.command("kernels")
def kernels(
    grid: Annotated[int, typer.Option("--grid", help="Side of the feature maps, in cells.")] = 14,
    batch: Annotated[int, typer.Option("--batch", help="Images in a batch.")] = 64,
    channels: Annotated[int, typer.Option("--channels", help="Feature maps of an image.")] = 512,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
) -> None:
    """Check each kernel against an oracle, then time it beside scikit-learn, image by image, and the memory's speed."""
    from pc_engine.bench.kernel_rates import measure_kernels

    with progress("photos", quiet=quiet or as_json, unit="runs") as tracker:
        report = measure_kernels(grid=grid, batch=batch, channels=channels, progress=tracker.restart).to_dict()
    print_answer(report, print_kernels, quiet=quiet, as_json=as_json)


@app.command("decoding")
def decoding(
    source: Source,
    mode: options.Mode = "c2p",
    model: options.Model = None,
    backend: options.Backend = "auto",
    precision: options.Precision = "auto",
    enlarge: Annotated[
        int, typer.Option("--enlarge", min=1, help="Enlarge the photos this many times first, to a camera's size.")
    ] = 1,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
) -> None:
    """Measure what decoding JPEGs at a smaller scale saves, and how many classes and counts it changes."""
    from pc_engine.bench.decoding import measure_decoding
    from pc_engine.bench.photos import photos_of
    from pc_engine.engine import Engine

    silent = quiet or as_json
    with (
        photos_of(source) as photos,
        Engine(model, mode=mode, backend=backend, precision=precision, report=remark(silent)) as engine,
        progress("photos", quiet=silent, unit="runs") as tracker,
    ):
        report = measure_decoding(photos, engine, enlarge=enlarge, progress=tracker.restart).to_dict()
    print_answer(report, print_decoding, quiet=quiet, as_json=as_json)


@app.command("isolation")
def isolation(
    source: Source,
    mode: options.Mode = "c2p",
    model: options.Model = None,
    backend: options.Backend = "auto",
    precision: options.Precision = "auto",
    batch_size: options.BatchSize = None,
    workers: options.Workers = None,
    n: Annotated[int | None, _n("512")] = None,
    repeats: Annotated[int | None, _repeats("5")] = None,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
) -> None:
    """Measure what run --isolate costs: decoding in threads and processes, in turn."""
    from pc_engine.bench.isolation import measure_isolation
    from pc_engine.bench.photos import photos_of
    from pc_engine.bench.throughput import ThroughputSettings

    settings = ThroughputSettings(
        model=model,
        mode=mode,
        execution=Execution(backend, precision, batch_size=batch_size),
        workers=workers,
        n=ThroughputSettings.n if n is None else n,
        repeats=ThroughputSettings.repeats if repeats is None else repeats,
    )
    silent = quiet or as_json
    with photos_of(source) as photos, progress("photos", quiet=silent, unit="runs") as tracker:
        report = measure_isolation(photos, settings, report=remark(silent), progress=tracker.restart).to_dict()
    print_answer(report, print_isolation, quiet=quiet, as_json=as_json)
