"""ONNX files against torch, run by onnxruntime."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from common import FocusedDropout, insert_after
from common.errors import InputError
from pretrain.export.backbone_file import export_run
from pretrain.export.onnx import onnx_bytes
from pretrain.networks import build_network


def drawn(name: str) -> nn.Module:
    network = build_network(name, 10)
    for key, buffer in network.named_buffers():
        if key.endswith("running_var"):
            buffer.uniform_(0.5, 2)
    return network


def run(content: bytes, images: torch.Tensor) -> Any:
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return session.run(None, {"images": images.numpy()})[0]


@pytest.mark.parametrize(("name", "size"), [("resnet18", 64), ("cifar-resnet20", 32)])
def test_onnxruntime_gives_what_torch_gives(name: str, size: int) -> None:
    network = drawn(name)
    group = "layer3" if name == "resnet18" else "layer2"
    layer = FocusedDropout()
    layer.active = True
    insert_after(network, group, layer)  # active, but a graph is of evaluation
    content = onnx_bytes(network.train(), size)
    for count in (1, 5):
        images = torch.randn(count, 3, size, size)
        with torch.inference_mode():
            expected = network.eval()(images).numpy()
        np.testing.assert_allclose(run(content, images), expected, rtol=0, atol=1e-4)
    model = onnx.load_from_string(content)
    onnx.checker.check_model(model, full_check=True)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 18)]
    (images_in,) = model.graph.input
    dims = images_in.type.tensor_type.shape.dim
    assert dims[0].dim_param and [d.dim_value for d in dims][1:] == [3, size, size]
    operations = Counter(node.op_type for node in model.graph.node)
    counted = Counter(type(module).__name__ for module in network.modules())
    assert operations["Conv"] == counted["Conv2d"]
    # Relu, Add, the pooling and the last layer: nothing that a mask would need.
    known = {"Conv", "Relu", "Add", "MaxPool", "ReduceMean", "GlobalAveragePool", "Reshape"}
    assert set(operations) <= known | {"Flatten", "Gemm"}
    for trace in (b".py", b"/home", str(Path(torch.__file__).parent).encode()):
        assert trace not in content  # source lines of the machine that wrote it


def test_the_card_and_its_block(
    drawn_run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = drawn_run(tmp_path / "run", "cifar10-resnet20-fd")
    # The graph is compared above; here it stands for any.
    monkeypatch.setattr("pretrain.export.backbone_file.onnx_bytes", lambda network, size: b"graph")
    card = export_run(folder, "onnx", tmp_path / "a.onnx", "best")
    assert (tmp_path / "a.onnx").read_bytes() == b"graph"
    assert card["onnx"] == {"opset": 18, "input": "images", "output": "logits", "batch": "any"}
    assert 'onnxruntime.InferenceSession(\n    "a.onnx"' in (tmp_path / "a.md").read_text()


def test_the_lines_of_the_card_normalise(
    drawn_run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []

    class Session:
        def __init__(self, name: str, providers: list[str]) -> None:
            assert name == "a.onnx"

        def run(self, outputs: None, inputs: dict[str, Any]) -> list[str]:
            given.append(inputs["images"])
            return ["logits"]

    monkeypatch.setattr("pretrain.export.backbone_file.onnx_bytes", lambda network, size: b"graph")
    monkeypatch.setattr("onnxruntime.InferenceSession", Session)
    folder = drawn_run(tmp_path / "run", "cifar10-resnet20-fd")
    names: dict[str, Any] = {}
    exec("\n".join(export_run(folder, "onnx", tmp_path / "a.onnx", "best")["use"]), names)
    mean, std = np.array([[0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]]).reshape(2, 3, 1, 1)
    assert names["images"].shape == (2, 3, 32, 32)
    np.testing.assert_allclose(given[0], (names["images"] - mean) / std, rtol=1e-5, atol=1e-6)
    assert given[0].dtype == np.float32


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"onnx": object(), "onnxscript": None}
    monkeypatch.setattr("importlib.util.find_spec", lambda name: found[name])
    with pytest.raises(InputError, match=r"need onnxscript: pip install 'focused-dropout\[onnx\]'"):
        onnx_bytes(nn.Identity(), 8)
