from __future__ import annotations

import sys

import pytest


def test_doctor_says_what_works_and_why_the_rest_does_not(pc_engine):
    report = pc_engine("doctor", "--json").json()
    backends = {entry["name"]: entry for entry in report["backends"]}
    assert backends["onnxruntime"]["works"]
    assert all(entry["reason"] for entry in [*report["backends"], *report["devices"]])
    assert report["machine"]["cores"] >= 1


def test_doctor_gives_a_line_each(pc_engine):
    lines = pc_engine("doctor").out.splitlines()
    for name in ("machine", "onnxruntime", "openvino", "cpu", "cuda"):
        assert sum(line.startswith(name) for line in lines) == 1


@pytest.mark.parametrize("command", ["doctor", "models"])
def test_a_folder_of_models_that_cannot_be_read_is_said_beside_all_else(pc_engine, engine_home, command):
    engine_home.write_bytes(b"")
    outcome = pc_engine(command)
    assert outcome.code == 0
    assert "lego" in outcome.out
    as_json = pc_engine(command, "--json")
    assert as_json.json()["models"][0]["name"] == "lego"
    for said in (outcome.out if command == "doctor" else outcome.err, as_json.err):
        assert f"Installed models are not listed: the folder {engine_home / 'models'} cannot be read" in said


def test_backend_that_cannot_be_imported_is_explained(pc_engine, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    lines = pc_engine("doctor").out.splitlines()
    line = next(line for line in lines if line.startswith("openvino"))
    assert "does not work" in line
    assert "pip install openvino" in line


def test_what_an_extra_adds_is_listed(pc_engine, monkeypatch):
    pytest.importorskip("h5py")
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    lines = pc_engine("doctor").out.splitlines()
    heif = next(line for line in lines if line.startswith("pillow_heif"))
    assert "not installed: The package 'pillow_heif' is needed to read HEIC photos" in heif
    assert "pip install 'pc-engine[heif]'" in heif
    optional = {entry["name"]: entry["works"] for entry in pc_engine("doctor", "--json").json()["optional"]}
    assert (optional["pillow_heif"], optional["h5py"]) == (False, True)


def cuda(pc_engine):
    return next(entry for entry in pc_engine("doctor", "--json").json()["devices"] if entry["name"] == "cuda")


def test_all_that_a_gpu_misses_is_said_at_once(pc_engine, monkeypatch):
    monkeypatch.setattr("pc_engine.hardware.devices.driver_found", lambda: False)
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setitem(sys.modules, "cudnn", None)
    found = cuda(pc_engine)
    assert not found["works"]
    assert {need["name"]: need["works"] for need in found["needs"]} == {"driver": False, "cupy": False, "nvrtc": False}
    works = {entry["name"]: entry["works"] for entry in found["backends"]}
    assert works == {"onnxruntime": False, "tensorrt": False, "cudnn": False}
    text = pc_engine("doctor").out
    assert found["reason"] == "No NVIDIA GPU with a driver was found: runs use the CPU."
    assert "install NVIDIA's driver" in text
    assert text.count("pc-engine[gpu]") >= 2
    assert "cuml" in text


def test_without_a_gpu_what_one_would_need_comes_last(pc_engine, monkeypatch):
    monkeypatch.setattr("pc_engine.hardware.devices.driver_found", lambda: False)
    lines = pc_engine("doctor").out.splitlines()
    k = next(k for k, line in enumerate(lines) if line.startswith("cache in"))
    assert lines[k + 1] == (
        "cuda          not used: No NVIDIA GPU with a driver was found: runs use the CPU. If there is one, it takes "
        "what follows."
    )
    needs = ["driver", "cupy", "nvrtc", "onnxruntime", "tensorrt", "cudnn", "nvidia.nvimgcodec", "cuml"]
    assert [line.split()[0] for line in lines[k + 2 :]] == needs
    assert all(line.startswith("  ") for line in lines[k + 2 :])
    assert not any("GPU" in line or line.startswith(" ") for line in lines[: k + 1])


def test_a_gpu_that_can_be_used_is_named(pc_engine, pretended, monkeypatch):
    monkeypatch.setattr("pc_engine.hardware.devices.driver_found", lambda: True)
    found = cuda(pc_engine)
    assert found["works"]
    assert found["reason"].startswith("NVIDIA H200 (compute capability 9.0, driver 13.0")
    assert all(need["works"] for need in found["needs"])
    pretended.missing = "pretended is not installed."
    found = cuda(pc_engine)
    assert not found["works"]
    assert found["reason"].startswith("NVIDIA H200")


def test_a_driver_without_a_gpu_does_not_work(pc_engine, pretended, pretended_gpu, monkeypatch):
    monkeypatch.setattr("pc_engine.hardware.devices.driver_found", lambda: True)
    pretended_gpu.count = 0
    found = cuda(pc_engine)
    assert (found["works"], found["reason"]) == (False, "This machine has no NVIDIA GPU: use --device cpu.")
    assert any(line.startswith("  driver") for line in pc_engine("doctor").out.splitlines())
