"""The inference libraries report to nobody, and leave nothing in the user's home."""

import os
import subprocess
import sys

import pytest

_RUN = """
import sys
asked = []
sys.addaudithook(lambda event, arguments: asked.append(arguments) if event == "socket.getaddrinfo" else None)
from pc_engine import Engine
with Engine("lego", backend=sys.argv[1], precision="fp32") as engine:
    list(engine.run("demo:"))
assert "openvino_telemetry" not in sys.modules
assert not asked, asked
"""


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_run_tells_nobody_and_leaves_only_its_cache(backend, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    kept = {name: value for name, value in os.environ.items() if name not in ("CI", "ORT_DISABLE_TELEMETRY")}
    places = {"HOME": home, "XDG_CACHE_HOME": home / "cache", "PC_ENGINE_HOME": home / "own"}
    environment = kept | {name: str(place) for name, place in places.items()}
    done = subprocess.run(
        [sys.executable, "-c", _RUN, backend], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert [path.name for path in home.iterdir()] == ["own"]


def test_who_wants_telemetry_may_have_it():
    program = "import os, pc_engine; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    environment = {**os.environ, "ORT_DISABLE_TELEMETRY": "0"}
    assert subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True).stdout == b"0\n"
