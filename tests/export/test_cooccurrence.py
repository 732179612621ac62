"""Co-occurrence against its definition, pair of cells by pair of cells."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from pc_engine.errors import ModelError, UsageError
from pc_engine.export import Cooccurrence
from pc_engine.export.cooccurrence import append_cooccurrence, cell_pairs
from pc_engine.graph.half import cast_to_half


def network(channels=3, height=5, width=4, opset=17) -> onnx.ModelProto:
    """A network whose maps are what it is given."""
    shape = ["N", channels, height, width]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["given"], ["maps"])],
        "maps",
        [helper.make_tensor_value_info("given", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("maps", TensorProto.FLOAT, shape)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def run(model: onnx.ModelProto, maps: np.ndarray, name: str) -> np.ndarray:
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run([name], {"given": maps})[0]


def by_definition(maps: np.ndarray, distance: int) -> np.ndarray:
    """Of each pair of maps: the mean of the products over all pairs of cells, either cell first; its root."""
    _, channels, height, width = maps.shape
    cells = list(itertools.product(range(height), range(width)))
    pairs = [(p, q) for p in cells for q in cells if (q[0] - p[0], q[1] - p[1]) in {(distance, 0), (0, distance)}]
    rows = []
    for image in maps.astype(np.float64):
        matrix = np.zeros((channels, channels))
        for p, q in pairs:
            matrix += np.outer(image[:, *p], image[:, *q]) + (distance > 0) * np.outer(image[:, *q], image[:, *p])
        mean = matrix / np.sqrt(len(pairs))
        rows.append([mean[i, j] for i in range(channels) for j in range(i, channels)])
    means = np.array(rows) / np.sqrt(len(pairs))
    return np.sign(means) * np.sqrt(np.abs(means))


@pytest.mark.parametrize("distance", [0, 1, 3, 4])  # at 4 there are cells so far apart in columns only
def test_it_is_the_mean_product_over_pairs_of_cells(distance):
    maps = np.random.default_rng(distance).standard_normal((2, 3, 5, 4)).astype(np.float32)
    model, wanted = network(), Cooccurrence("maps", distance)
    assert append_cooccurrence(model, wanted) == 6
    assert wanted.name == f"maps_cooccurrence_{distance}"
    found = run(model, maps, wanted.name)
    np.testing.assert_allclose(found, by_definition(maps, distance), rtol=1e-4, atol=1e-5)
    assert [value.name for value in model.graph.output] == ["maps", wanted.name]


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(0, 3))
def test_an_image_and_its_mirror_image_have_the_same(seed, distance):
    maps = np.random.default_rng(seed).standard_normal((2, 3, 5, 4)).astype(np.float32)
    model, wanted = network(), Cooccurrence("maps", distance)
    append_cooccurrence(model, wanted)
    mirrored = np.ascontiguousarray(maps[..., ::-1])
    # Of roots: a sum of terms of about 1 that cancel leaves their rounding, 1e-7, of which the root is 4e-4.
    np.testing.assert_allclose(run(model, maps, wanted.name), run(model, mirrored, wanted.name), atol=2e-3)


def test_two_of_the_same_far_apart_are_told_from_one_and_wherever_they_are():
    maps = np.zeros((4, 1, 6, 6), np.float32)
    maps[0, 0, 1, 1] = 2.0
    for k, (row, column) in enumerate([(1, 1), (4, 2), (0, 0)], start=1):
        maps[k, 0, row, column] = maps[k, 0, row, column + 3] = np.sqrt(2)
    model = network(1, 6, 6)
    for distance in (0, 3):
        append_cooccurrence(model, Cooccurrence("maps", distance))
    alike = run(model, maps, "maps_cooccurrence_0")[:, 0]
    assert np.ptp(alike) < 1e-6  # as much of it in all of them
    far = run(model, maps, "maps_cooccurrence_3")[:, 0]
    assert far[0] == 0
    np.testing.assert_allclose(far[1:], np.sqrt(2 * 2 / 36), rtol=1e-6)


def test_half_precision_neither_overflows_nor_loses_small_values():
    rng = np.random.default_rng(0)
    maps = rng.uniform(0, 200, (2, 3, 14, 14)).astype(np.float32)  # a sum of 196 products would be 2.6 million
    maps[1] *= 1e-3
    model, wanted = network(3, 14, 14), Cooccurrence("maps", 2)
    append_cooccurrence(model, wanted)
    expected = run(model, maps, wanted.name)
    cast_to_half(model)
    assert any(node.op_type == "Cast" for node in model.graph.node)
    np.testing.assert_allclose(run(model, maps, wanted.name), expected, rtol=2e-3)


def test_pairs_are_counted_once_each():
    first, second = cell_pairs(2, 3, 1)
    assert list(zip(first.tolist(), second.tolist(), strict=True)) == [
        *((0, 3), (1, 4), (2, 5)),
        *((0, 1), (1, 2), (3, 4), (4, 5)),
    ]
    assert all(np.array_equal(places, np.arange(6)) for places in cell_pairs(2, 3, 0))


@pytest.mark.parametrize(
    ("tap", "distance", "expected"),
    [
        ("maps", 5, "5 x 4 cells, of which none are 5 apart: name a distance from 0 to 4"),
        ("maps", -1, "name a distance from 0 to 4"),
        ("other", 0, "the tap 'other' is not there: name a tap of maps; for an .onnx file, --tap other=TENSOR"),
        ("flat", 0, r"the tap 'flat' has shape \(60,\)"),
    ],
)
def test_what_cannot_be_is_said_and_leaves_the_network_as_it_was(tap, distance, expected):
    model = network()
    model.graph.node.append(helper.make_node("Flatten", ["maps"], ["flat"]))
    before = model.SerializeToString()
    with pytest.raises(UsageError, match=expected):
        append_cooccurrence(model, Cooccurrence(tap, distance))
    assert model.SerializeToString() == before


def test_the_same_one_twice_is_refused():
    model = network()
    append_cooccurrence(model, Cooccurrence("maps"))
    with pytest.raises(UsageError, match="'maps_cooccurrence_0' was asked for twice"):
        append_cooccurrence(model, Cooccurrence("maps", 0))


def test_an_opset_without_signs_is_refused():
    with pytest.raises(ModelError, match="Co-occurrence needs ONNX opset 9, but the network has 8"):
        append_cooccurrence(network(opset=8), Cooccurrence("maps"))
