"""Weight files of every kind and layout, whole and damaged."""

import dataclasses
import sys
import zipfile

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from pc_engine.errors import MissingPackageError, UsageError, WeightsError
from pc_engine.export import ARCHITECTURES, VggSpec, build_vgg, read_weights
from pc_engine.export.vgg_graph import IMAGENET_MEAN
from pc_engine.export.vgg_weights import CAFFE_MEAN

TIMM_NAMES = {"classifier.0": "pre_logits.fc1", "classifier.3": "pre_logits.fc2", "classifier.6": "head.fc"}


def to_timm(spec, weights):
    side = spec.trained_size // 2 ** len(spec.blocks)
    shapes = {
        "classifier.0.weight": (spec.fc_width, spec.blocks[-1][-1], side, side),
        "classifier.3.weight": (spec.fc_width, spec.fc_width, 1, 1),
    }
    named = {}
    for name, array in weights.items():
        layer, _, part = name.rpartition(".")
        named[f"{TIMM_NAMES.get(layer, layer)}.{part}"] = array.reshape(shapes.get(name, array.shape))
    return named


def to_keras(spec, weights):
    """Return (layer, array) pairs such that Keras' network on BGR computes what PyTorch's does on RGB."""
    side = spec.trained_size // 2 ** len(spec.blocks)
    names = [f"block{b}_conv{k}" for b, widths in enumerate(spec.blocks, 1) for k in range(1, len(widths) + 1)]
    layers = [name.rpartition(".")[0] for name in weights if name.endswith("weight")]
    for name, layer in zip([*names, "fc1", "fc2", "predictions"], layers, strict=True):
        kernel = weights[f"{layer}.weight"]
        if layer == "features.0":
            kernel = kernel[:, ::-1]
        if kernel.ndim == 4:
            kernel = np.einsum("oihw->hwio", kernel)
        elif layer == "classifier.0":
            grid = kernel.reshape(-1, spec.blocks[-1][-1], side, side)
            kernel = np.einsum("ochw->hwco", grid).reshape(-1, len(kernel))
        else:
            kernel = kernel.T
        yield name, kernel, weights[f"{layer}.bias"]


KERAS_FORMS = {
    "keras1": ("{0}", "{0}/{0}_W_1:0", "{0}/{0}_b_1:0"),
    "keras2": ("{0}", "{0}/{0}/kernel:0", "{0}/{0}/bias:0"),
    "whole_model": ("model_weights/{0}", "model_weights/{0}/{0}/kernel:0", "model_weights/{0}/{0}/bias:0"),
    "layers": ("layers/{0}", "layers/{0}/vars/0", "layers/{0}/vars/1"),
    "keras3.5": ("layers/{1}", "layers/{1}/vars/0", "layers/{1}/vars/1"),
    "keras3.15": ("layers/{1}", "layers/{1}/vars/0", "layers/{1}/vars/1"),
}


def save_keras(path, spec, weights, form="keras2"):
    """Write what Keras does: its third version counts layers of a kind, and later notes their names beside."""
    h5py = pytest.importorskip("h5py")
    group, kernel_name, bias_name = KERAS_FORMS[form]
    counts = {}
    with h5py.File(path, "w") as file:
        file.create_group(group.format("flatten", "flatten"))  # layers without weights have groups too
        for layer, kernel, bias in to_keras(spec, weights):
            kind = "conv2d" if kernel.ndim == 4 else "dense"
            counts[kind] = counts.get(kind, -1) + 1
            names = layer, f"{kind}_{counts[kind]}" if counts[kind] else kind
            file[kernel_name.format(*names)] = kernel
            file[bias_name.format(*names)] = bias
            if form == "keras3.15":
                file[group.format(*names)]["vars"].attrs["name"] = layer
        if form in ("keras3.5", "keras3.15"):
            file.create_group("optimizer/vars")["0"] = np.arange(3)
            file.create_group("vars")


def pack_keras(path, spec, weights, form="keras3.15", member="model.weights.h5", compression=zipfile.ZIP_STORED):
    """Write a ``.keras`` file: a zip of the weights, and of what the network is made of."""
    inside = path.with_suffix(".h5")
    save_keras(inside, spec, weights, form)
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("metadata.json", "{}")
        archive.writestr("config.json", "{}" * 50)
        archive.write(inside, member)
    inside.unlink()


def graph_bytes(spec, loaded):
    return build_vgg(spec, loaded.tensors, loaded.mean, loaded.std).SerializeToString(deterministic=True)


@pytest.fixture
def torchvision_file(tmp_path, tiny_weights):
    save_file(tiny_weights, tmp_path / "tv.safetensors")
    return tmp_path / "tv.safetensors"


class TestLayouts:
    def test_torchvision_and_timm_give_the_same_bytes(self, tmp_path, tiny, tiny_weights, torchvision_file):
        path = tmp_path / "timm.safetensors"
        save_file(to_timm(tiny, tiny_weights), path)
        one, two = read_weights(str(torchvision_file), tiny), read_weights(path, tiny)
        assert graph_bytes(tiny, one) == graph_bytes(tiny, two)
        for name, array in tiny_weights.items():
            np.testing.assert_array_equal(one.tensors[name], array)

    @pytest.mark.parametrize("wrap", [None, "state_dict", "model", "module."])
    def test_torch_file_gives_the_same_bytes(self, tmp_path, tiny, tiny_weights, torchvision_file, wrap):
        torch = pytest.importorskip("torch")
        state = {name: torch.from_numpy(array) for name, array in tiny_weights.items()}
        if wrap == "module.":
            state = {f"module.{name}": array for name, array in state.items()}
        elif wrap:
            state = {wrap: state, "epoch": 3}
        torch.save(state, tmp_path / "w.pth")
        loaded = read_weights(tmp_path / "w.pth", tiny)
        assert graph_bytes(tiny, loaded) == graph_bytes(tiny, read_weights(torchvision_file, tiny))

    @pytest.mark.parametrize("form", KERAS_FORMS)
    def test_keras_file_holds_the_same_network(self, tmp_path, tiny, tiny_weights, form):
        save_keras(tmp_path / "w.h5", tiny, tiny_weights, form)
        loaded = read_weights(tmp_path / "w.h5", tiny)
        assert (loaded.mean, loaded.std) == (CAFFE_MEAN, (1.0, 1.0, 1.0))
        assert list(loaded.tensors) == list(tiny_weights)
        for name, array in tiny_weights.items():
            np.testing.assert_array_equal(loaded.tensors[name], array, err_msg=name)

    @pytest.mark.parametrize("form", ["keras3.5", "keras3.15"])
    def test_keras_archive_holds_the_same_network(self, tmp_path, tiny, tiny_weights, form):
        pack_keras(tmp_path / "w.keras", tiny, tiny_weights, form)
        loaded = read_weights(tmp_path / "w.keras", tiny)
        assert loaded.mean == CAFFE_MEAN
        assert list(loaded.tensors) == list(tiny_weights)
        for name, array in tiny_weights.items():
            np.testing.assert_array_equal(loaded.tensors[name], array, err_msg=name)

    def test_keras_network_agrees_with_torch_on_bgr(self, tmp_path, tiny, tiny_weights, torch_taps):
        """By the definition of keras.applications, BGR minus the means, rather than by the inverse of our reading."""
        import onnxruntime

        save_keras(tmp_path / "w.h5", tiny, tiny_weights)
        loaded = read_weights(tmp_path / "w.h5", tiny)
        images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
        session = onnxruntime.InferenceSession(graph_bytes(tiny, loaded), providers=["CPUExecutionProvider"])
        found = session.run(["conv_last", "logits"], {"image": images})
        bgr = {**tiny_weights, "features.0.weight": np.ascontiguousarray(tiny_weights["features.0.weight"][:, ::-1])}
        means = (103.939, 116.779, 123.68)
        wanted = torch_taps(tiny.blocks, bgr, np.ascontiguousarray(images[..., ::-1]), means, (1.0, 1.0, 1.0))
        for value, tap in zip(found, ("conv_last", "logits"), strict=True):
            assert np.linalg.norm(value - wanted[tap]) < 1e-4 * np.linalg.norm(wanted[tap])

    @pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
    def test_sixteen_bit_floats_are_widened(self, tmp_path, tiny, tiny_weights, dtype):
        narrow = {name: array.astype(dtype) for name, array in tiny_weights.items()}
        save_file(narrow, tmp_path / "h.safetensors")
        loaded = read_weights(tmp_path / "h.safetensors", tiny)
        for name, array in narrow.items():
            assert loaded.tensors[name].dtype == np.float32
            np.testing.assert_array_equal(loaded.tensors[name], array.astype(np.float32))

    def test_sixteen_bit_torch_file(self, tmp_path, tiny, tiny_weights):
        torch = pytest.importorskip("torch")
        torch.save({name: torch.from_numpy(a).bfloat16() for name, a in tiny_weights.items()}, tmp_path / "w.pt")
        loaded = read_weights(tmp_path / "w.pt", tiny)
        name = "classifier.0.weight"
        np.testing.assert_array_equal(loaded.tensors[name], tiny_weights[name].astype(ml_dtypes.bfloat16).astype("f4"))

    def test_any_number_of_classes(self, tmp_path, tiny, tiny_weights):
        rng = np.random.default_rng(0)
        head = {"classifier.6.weight": rng.random((23, 24), "f4"), "classifier.6.bias": rng.random(23, "f4")}
        save_file(to_timm(tiny, {**tiny_weights, **head}), tmp_path / "w.safetensors")
        assert read_weights(tmp_path / "w.safetensors", tiny).tensors["classifier.6.weight"].shape == (23, 24)

    def test_random(self, tiny):
        one, two = read_weights("random:5", tiny), read_weights("random:5", tiny)
        assert graph_bytes(tiny, one) == graph_bytes(tiny, two)
        assert one.mean == IMAGENET_MEAN
        assert one.tensors["classifier.6.weight"].shape[0] == 1000


class TestRefusals:
    def change(self, tmp_path, weights, **changes):
        path = tmp_path / "w.safetensors"
        weights = {**weights, **{name.replace("__", "."): array for name, array in changes.items()}}
        save_file({name: array for name, array in weights.items() if array is not None}, path)
        return path

    def test_missing_tensor(self, tmp_path, tiny, tiny_weights):
        path = self.change(tmp_path, tiny_weights, classifier__3__bias=None)
        with pytest.raises(WeightsError, match=r"w\.safetensors has no tensor 'classifier\.3\.bias'"):
            read_weights(path, tiny)

    def test_missing_tensor_of_timm_is_called_by_timms_name(self, tmp_path, tiny, tiny_weights):
        path = self.change(tmp_path, to_timm(tiny, tiny_weights), pre_logits__fc1__weight=None)
        with pytest.raises(WeightsError, match=r"no tensor 'pre_logits\.fc1\.weight'"):
            read_weights(path, tiny)

    def test_missing_convolution(self, tmp_path, tiny, tiny_weights):
        path = self.change(tmp_path, tiny_weights, features__10__weight=None)
        with pytest.raises(WeightsError, match=r"no tensor 'features\.10\.weight'"):
            read_weights(path, tiny)

    def test_odd_shape(self, tmp_path, tiny, tiny_weights):
        path = self.change(tmp_path, tiny_weights, features__5__weight=np.zeros((6, 5, 5, 5), "f4"))
        with pytest.raises(
            WeightsError, match=r"'features\.5\.weight' has shape \(6, 5, 5, 5\), expected \(6, 5, 3, 3\)"
        ):
            read_weights(path, tiny)

    def test_head_of_odd_rank(self, tmp_path, tiny, tiny_weights):
        path = self.change(tmp_path, tiny_weights, classifier__6__weight=np.zeros((7, 24, 1, 1), "f4"))
        with pytest.raises(WeightsError, match=r"'classifier\.6\.weight' has shape \(7, 24, 1, 1\)"):
            read_weights(path, tiny)

    def test_bias_that_does_not_fit_the_head(self, tmp_path, tiny, tiny_weights):
        path = self.change(tmp_path, tiny_weights, classifier__6__bias=np.zeros(8, "f4"))
        with pytest.raises(WeightsError, match=r"'classifier\.6\.bias' has shape \(8,\), expected \(7,\)"):
            read_weights(path, tiny)

    def test_keras_tensor_is_called_by_kerass_name(self, tmp_path, tiny, tiny_weights):
        save_keras(tmp_path / "w.h5", tiny, {**tiny_weights, "classifier.3.weight": np.zeros((24, 25), "f4")})
        with pytest.raises(WeightsError, match=r"'fc2/kernel' has shape \(25, 24\), expected \(24, 24\)"):
            read_weights(tmp_path / "w.h5", tiny)

    @pytest.mark.parametrize("form", ["torchvision", "timm", "keras2", "keras3.5", "keras3.15"])
    @pytest.mark.parametrize(("given", "asked"), [("vgg16", "vgg19"), ("vgg19", "vgg16")])
    def test_another_vgg(self, tmp_path, form, given, asked):
        spec = dataclasses.replace(
            ARCHITECTURES[given], blocks=tuple((2,) * len(b) for b in ARCHITECTURES[given].blocks)
        )
        spec = dataclasses.replace(spec, fc_width=4, trained_size=32)
        from pc_engine.export import random_weights

        weights = random_weights(spec, 0, n_classes=3)
        path = tmp_path / ("w.h5" if "keras" in form else "w.safetensors")
        if "keras" in form:
            save_keras(path, spec, weights, form)
        else:
            save_file(weights if form == "torchvision" else to_timm(spec, weights), path)
        with pytest.raises(WeightsError, match=f"looks like {given.upper()} weights, but {asked} was asked for"):
            read_weights(path, ARCHITECTURES[asked])

    def test_batch_normalised_variant(self, tmp_path, tiny, tiny_weights):
        extra = {"features__1__weight": np.zeros(4, "f4"), "features__1__running_mean": np.zeros(4, "f4")}
        weights = {name.replace("features.2", "features.3"): array for name, array in tiny_weights.items()}
        with pytest.raises(WeightsError, match=r"batch-normalised network \('features\.1\.running_mean'\)"):
            read_weights(self.change(tmp_path, weights, **extra), tiny)

    def test_convolution_too_many(self, tmp_path, tiny, tiny_weights):
        path = self.change(tmp_path, tiny_weights, features__31__weight=np.zeros((2, 2, 3, 3), "f4"))
        with pytest.raises(WeightsError, match=r"'features\.31\.weight', which tiny does not have"):
            read_weights(path, tiny)

    def test_another_network(self, tmp_path, tiny):
        save_file(
            {"conv1.weight": np.zeros((64, 3, 7, 7), "f4"), "fc.bias": np.zeros(9, "f4")}, tmp_path / "r.safetensors"
        )
        with pytest.raises(WeightsError, match=r"no tensor 'features\.0\.weight'.*2 others, e\.g\. 'conv1\.weight'"):
            read_weights(tmp_path / "r.safetensors", tiny)

    def test_integers(self, tmp_path, tiny, tiny_weights):
        path = self.change(tmp_path, tiny_weights, features__0__weight=np.zeros((4, 3, 3, 3), "i1"))
        with pytest.raises(WeightsError, match=r"'features\.0\.weight' is of type int8"):
            read_weights(path, tiny)

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_not_a_number(self, tmp_path, tiny, tiny_weights, value):
        bias = tiny_weights["classifier.0.bias"].copy()
        bias[3] = value
        with pytest.raises(WeightsError, match=r"'classifier\.0\.bias' holds NaN or infinity"):
            read_weights(self.change(tmp_path, tiny_weights, classifier__0__bias=bias), tiny)

    @pytest.mark.parametrize("suffix", ["safetensors", "pth", "h5", "keras"])
    @pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9])
    def test_truncated_file(self, tmp_path, tiny, tiny_weights, torchvision_file, suffix, share):
        path = tmp_path / f"cut.{suffix}"
        if suffix == "h5":
            save_keras(path, tiny, tiny_weights)
        elif suffix == "keras":
            pack_keras(path, tiny, tiny_weights)
        elif suffix == "pth":
            torch = pytest.importorskip("torch")
            torch.save({name: torch.from_numpy(array) for name, array in tiny_weights.items()}, path)
        else:
            path.write_bytes(torchvision_file.read_bytes())
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(WeightsError, match=r"cut\."):
            read_weights(path, tiny)

    @pytest.mark.parametrize("suffix", ["safetensors", "pth", "pt", "h5", "hdf5", "keras"])
    @pytest.mark.parametrize(
        "content", [b"<html>404</html>", b"version https://git-lfs.github.com/spec/v1\noid", b"\0" * 99]
    )
    def test_no_weight_file_at_all(self, tmp_path, tiny, suffix, content):
        path = tmp_path / f"odd.{suffix}"
        path.write_bytes(content)
        with pytest.raises(WeightsError, match=r"odd\."):
            read_weights(path, tiny)

    def test_pickle_with_code(self, tmp_path, tiny):
        torch = pytest.importorskip("torch")
        marker = tmp_path / "ran"

        class Payload:
            def __reduce__(self):
                return (type(marker).touch, (marker,))

        torch.save({"features.0.weight": Payload()}, tmp_path / "evil.pth")
        with pytest.raises(WeightsError, match=r"evil\.pth holds more than tensors .*refused, as it could run code"):
            read_weights(tmp_path / "evil.pth", tiny)
        assert not marker.exists()

    def test_torch_file_without_tensors(self, tmp_path, tiny):
        torch = pytest.importorskip("torch")
        torch.save([torch.zeros(3)], tmp_path / "list.pth")
        with pytest.raises(WeightsError, match=r"holds a list, expected a state_dict"):
            read_weights(tmp_path / "list.pth", tiny)

    @pytest.mark.parametrize("where", ["link", "soft link", "dataset", "layers"])
    def test_keras_weights_in_another_file(self, tmp_path, tiny, tiny_weights, where):
        h5py = pytest.importorskip("h5py")
        save_keras(tmp_path / "w.h5", tiny, tiny_weights)
        with h5py.File(tmp_path / "w.h5", "r+") as file:
            name = next(name for name in (file.get("model_weights") or file) if "conv" in name)
            group = file.get("model_weights") or file
            if where == "dataset":
                (tmp_path / "secret").write_bytes(bytes(64))
                group[name].create_dataset("secret", (8,), "f8", external=[(str(tmp_path / "secret"), 0, 64)])
            elif where == "layers":
                if "model_weights" in file:
                    del file["model_weights"]
                file["model_weights"] = h5py.ExternalLink("other.h5", "/")
            else:
                group.move(name, "moved")
                group[name] = h5py.SoftLink("/moved") if where == "soft link" else h5py.ExternalLink("other.h5", "/")
        with pytest.raises(WeightsError, match="in another file or behind a link, which is not followed"):
            read_weights(tmp_path / "w.h5", tiny)

    @pytest.mark.parametrize("where", ["layer", "variables"])
    def test_keras_archive_that_leads_out_of_itself(self, tmp_path, tiny, tiny_weights, where):
        h5py = pytest.importorskip("h5py")
        save_keras(tmp_path / "other.h5", tiny, tiny_weights, "keras3.15")
        with h5py.File(tmp_path / "model.weights.h5", "w") as file:
            for layer in ("conv2d", "conv2d_1"):
                name = f"layers/{layer}" if where == "layer" else f"layers/{layer}/vars"
                file[name] = h5py.ExternalLink(str(tmp_path / "other.h5"), name)
        with zipfile.ZipFile(tmp_path / "w.keras", "w") as archive:
            archive.write(tmp_path / "model.weights.h5", "model.weights.h5")
        with pytest.raises(WeightsError, match=r"which is not followed|has no tensor .* it holds none\."):
            read_weights(tmp_path / "w.keras", tiny)

    def test_keras_archive_that_is_no_file_of_keras(self, tmp_path, tiny, tiny_weights):
        pack_keras(tmp_path / "w.keras", tiny, tiny_weights, compression=zipfile.ZIP_DEFLATED)
        with pytest.raises(WeightsError, match=r"repacked, with compression or a password.*give its model\.weights"):
            read_weights(tmp_path / "w.keras", tiny)
        pack_keras(tmp_path / "n.keras", tiny, tiny_weights, member="model.weights.npz")
        with pytest.raises(WeightsError, match=r"holds no model\.weights\.h5: save the weights in one file"):
            read_weights(tmp_path / "n.keras", tiny)

    def test_damaged_byte_in_a_keras_archive(self, tmp_path, tiny, tiny_weights):
        pack_keras(tmp_path / "w.keras", tiny, tiny_weights)
        content = bytearray((tmp_path / "w.keras").read_bytes())
        content[len(content) // 2] ^= 1
        (tmp_path / "w.keras").write_bytes(content)
        with pytest.raises(WeightsError, match=r"w\.keras is damaged, cut off or not a \.keras file \(Bad CRC-32"):
            read_weights(tmp_path / "w.keras", tiny)

    @pytest.mark.parametrize("bomb", ["never written", "compressed", "many views"])
    def test_keras_weights_that_would_fill_memory(self, tmp_path, tiny, bomb):
        h5py = pytest.importorskip("h5py")
        with h5py.File(tmp_path / "w.h5", "w") as file:
            if bomb == "never written":
                file.create_dataset("block1_conv1/block1_conv1/kernel:0", (1 << 40,), "f8", chunks=(1 << 20,))
            elif bomb == "compressed":
                zeros = np.zeros(1 << 22, "f4")
                file.create_dataset("block1_conv1/block1_conv1/kernel:0", data=zeros, compression="gzip")
            else:
                file["block1_conv1/block1_conv1/kernel:0"] = np.ones(100_000, "f4")
                for k in range(2, 42):
                    file[f"block1_conv{k}"] = file["block1_conv1"]
        with pytest.raises(WeightsError, match=r"w\.h5 has [\d.]+ MB and would take [\d,.]+ MB of memory"):
            read_weights(tmp_path / "w.h5", tiny)

    def test_keras_weights_that_are_no_numbers(self, tmp_path, tiny):
        h5py = pytest.importorskip("h5py")
        with h5py.File(tmp_path / "w.h5", "w") as file:
            file.create_dataset("block1_conv1/kernel:0", data=["a"] * 3, dtype=h5py.string_dtype())
        with pytest.raises(WeightsError, match="holds weights that are not numbers"):
            read_weights(tmp_path / "w.h5", tiny)

    def test_absent_package(self, tmp_path, tiny, monkeypatch):
        (tmp_path / "w.h5").write_bytes(b"x")
        monkeypatch.setitem(sys.modules, "h5py", None)
        with pytest.raises(MissingPackageError, match=r"'h5py' is needed.*pc-engine\[hdf5\]"):
            read_weights(tmp_path / "w.h5", tiny)

    def test_absent_file_and_unknown_kind(self, tmp_path, tiny):
        with pytest.raises(UsageError, match="does not exist"):
            read_weights(tmp_path / "none.safetensors", tiny)
        expected = r"expected \.h5, \.hdf5, \.keras, \.pt, \.pth, \.safetensors or random:SEED"
        with pytest.raises(UsageError, match=expected):
            read_weights(tmp_path / "w.caffemodel", tiny)
        with pytest.raises(UsageError, match="'random:-1' names no seed"):
            read_weights("random:-1", tiny)


def test_specification_reads_its_own_random_weights_back(tmp_path):
    spec = VggSpec("odd", ((3,), (5, 4)), fc_width=6, trained_size=12)
    from pc_engine.export import random_weights

    weights = random_weights(spec, 1, n_classes=2)
    save_keras(tmp_path / "w.h5", spec, weights)
    loaded = read_weights(tmp_path / "w.h5", spec)
    for name, array in weights.items():
        np.testing.assert_array_equal(loaded.tensors[name], array)
