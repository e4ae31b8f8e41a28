"""robust/models/foreign/onnx_*: operators against onnxruntime, whole models against torch, and what is refused."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from foreign_files import SIZE, Net, images, normalised, onnx_file, spec_of
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from robust.errors import UserError
from robust.models.foreign import load_foreign
from robust.models.foreign import onnx_file as loader
from robust.models.foreign.probe import probe, probe_images

WHERE = "evaluate.models.x: model"


def graph_of(nodes, constants=(), *, channels=3, outputs=("y",), inputs=("x",), opset=18, element=TensorProto.FLOAT, size=SIZE):
    """A file of these nodes, from "x" (n, channels, size, size) to "y"."""
    free = [helper.make_tensor_value_info(name, element, ["n", channels, size, size]) for name in inputs]
    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in dict(constants).items()]
    graph = helper.make_graph(nodes, "g", free, given, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def node(kind, *inputs, out="y", **attributes):
    return helper.make_node(kind, inputs, [out] if isinstance(out, str) else out, **attributes)


def rng():
    return np.random.default_rng(0)


def weights(*shape):
    return rng().normal(0, 0.3, shape).astype(np.float32)


I64 = lambda *values: np.array(values, np.int64)  # noqa: E731
F32 = lambda *values: np.array(values, np.float32)  # noqa: E731
ONE = {  # one operator on (n, 3, 32, 32) noise
    "conv": ([node("Conv", "x", "w", "b", pads=[1, 0, 1, 0], strides=[2, 1])], {"w": weights(4, 3, 3, 3), "b": weights(4)}),
    "conv uneven": ([node("Conv", "x", "w", pads=[0, 0, 1, 2], dilations=[2, 2])], {"w": weights(4, 3, 3, 3)}),
    "conv same upper": ([node("Conv", "x", "w", auto_pad="SAME_UPPER", strides=[3, 2])], {"w": weights(4, 3, 4, 3)}),
    "conv same lower": ([node("Conv", "x", "w", auto_pad="SAME_LOWER", strides=[2, 2])], {"w": weights(4, 3, 4, 4)}),
    "conv groups": ([node("Conv", "x", "w", group=3)], {"w": weights(6, 1, 3, 3)}),
    "max pool": ([node("MaxPool", "x", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], ceil_mode=1)], {}),
    "max pool uneven": ([node("MaxPool", "x", kernel_shape=[3, 2], strides=[2, 2], pads=[0, 0, 1, 1])], {}),
    "average pool": ([node("AveragePool", "x", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])], {}),
    "average pool uneven": ([node("AveragePool", "x", kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1])], {}),
    "average pool counts": ([node("AveragePool", "x", kernel_shape=[2, 2], pads=[1, 1, 1, 1], count_include_pad=1)], {}),
    "global pools": ([node("GlobalAveragePool", "x", out="a"), node("GlobalMaxPool", "x", out="b"), node("Add", "a", "b")], {}),
    "batch norm": ([node("BatchNormalization", "x", "s", "b", "m", "v", epsilon=0.01)],
                   {"s": weights(3), "b": weights(3), "m": weights(3), "v": weights(3) ** 2 + 0.5}),
    "layer norm": ([node("LayerNormalization", "x", "s", "b", axis=-1)], {"s": weights(SIZE), "b": weights(SIZE)}),
    "instance norm": ([node("InstanceNormalization", "x", "s", "b")], {"s": weights(3), "b": weights(3)}),
    "lrn": ([node("LRN", "x", size=3, alpha=0.1)], {}),
    "gemm": ([node("Flatten", "x", out="f"), node("Gemm", "f", "w", "b", alpha=0.5, beta=2.0, transB=1)],
             {"w": weights(2, 3 * SIZE * SIZE), "b": weights(2)}),
    "matmul": ([node("MatMul", "x", "w")], {"w": weights(SIZE, 5)}),
    "einsum": ([node("Einsum", "x", "w", equation="nchw,wk->nhck")], {"w": weights(SIZE, 5)}),
    "softmax": ([node("Softmax", "x", axis=1)], {}), "log softmax": ([node("LogSoftmax", "x", axis=-1)], {}),
    "clip": ([node("Clip", "x", "", "h")], {"h": np.float32(0.5)}), "clip both": ([node("Clip", "x", "l", "h")], {"l": np.float32(-0.2), "h": np.float32(0.5)}),
    "prelu": ([node("PRelu", "x", "s")], {"s": weights(3, 1, 1)}), "leaky": ([node("LeakyRelu", "x", alpha=0.3)], {}),
    "hard sigmoid": ([node("HardSigmoid", "x", alpha=0.7, beta=0.1)], {}), "elu": ([node("Elu", "x", alpha=0.7)], {}), "celu": ([node("Celu", "x", alpha=0.7)], {}),
    "mean of two": ([node("Relu", "x", out="a"), node("Mean", "a", "x")], {}),
    "min max": ([node("Max", "x", "a", out="b"), node("Min", "b", "c")], {"a": np.float32(-0.3), "c": np.float32(0.4)}),
    "reduce mean": ([node("ReduceMean", "x", "a", keepdims=0)], {"a": I64(2, -1)}), "reduce all": ([node("ReduceSum", "x", keepdims=1)], {}),
    "reduce l2": ([node("ReduceL2", "x", "a")], {"a": I64(1)}), "reduce max": ([node("ReduceMax", "x", "a")], {"a": I64(1)}),
    "reshape": ([node("Reshape", "x", "s")], {"s": I64(0, -1, 8)}), "flatten": ([node("Flatten", "x", axis=2)], {}),
    "squeeze": ([node("ReduceMean", "x", "a", out="m"), node("Squeeze", "m", "a", out="s"), node("Unsqueeze", "s", "b")], {"a": I64(2, 3), "b": I64(0, -1)}),
    "transpose": ([node("Transpose", "x", perm=[0, 2, 3, 1])], {}), "expand": ([node("Expand", "x", "s")], {"s": I64(2, 1, 1, 1, 1)}),
    "slice": ([node("Slice", "x", "a", "b", "c", "d")], {"a": I64(1, -3), "b": I64(2**40, -(2**40)), "c": I64(2, 3), "d": I64(3, -2)}),
    "slice back": ([node("Slice", "x", "a", "b", "c", "d")], {"a": I64(-1), "b": I64(-(2**62)), "c": I64(1), "d": I64(-1)}),
    "gather": ([node("Gather", "x", "i", axis=1)], {"i": np.array([[2, -1], [0, 1]])}),
    "split": ([node("Split", "x", "s", out=["a", "b"], axis=3), node("Concat", "b", "a", axis=3)], {"s": I64(5, SIZE - 5)}),
    "split even": ([node("Split", "x", out=["a", "b", "c"], axis=1, num_outputs=3), node("Sum", "b", "a", "c")], {}),
    "pad": ([node("Pad", "x", "p", "v")], {"p": I64(0, 0, 1, 2, 0, 1, 3, 0), "v": np.float32(0.7)}),
    "pad reflect": ([node("Pad", "x", "p", mode="reflect")], {"p": I64(0, 0, 1, 2, 0, 0, 3, 1)}),
    "pad axes": ([node("Pad", "x", "p", "", "a", mode="edge")], {"p": I64(1, 2, 0, 3), "a": I64(3, 2)}),
    "tile": ([node("Tile", "x", "r")], {"r": I64(1, 2, 1, 3)}),
    "constant of shape": ([node("Shape", "x", out="s", start=1), node("ConstantOfShape", "s", out="c", value=numpy_helper.from_array(F32(2))),
                           node("Mul", "x", "c")], {}),
    "resize nearest": ([node("Resize", "x", "", "s", mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor")], {"s": F32(1, 1, 2, 2)}),
    "resize linear": ([node("Resize", "x", "", "", "z", mode="linear", coordinate_transformation_mode="half_pixel")], {"z": I64(2, 3, 45, 50)}),
    "resize corners": ([node("Resize", "x", "", "", "z", mode="linear", coordinate_transformation_mode="align_corners")], {"z": I64(2, 3, 20, 70)}),
    "where": ([node("Greater", "x", "z", out="m"), node("Not", "m", out="k"), node("Where", "k", "x", "z")], {"z": np.float32(0.1)}),
    "cast": ([node("Cast", "x", to=TensorProto.INT64, out="i"), node("Cast", "i", to=TensorProto.FLOAT, out="f"), node("Sub", "x", "f")], {}),
    "integer division": ([node("Shape", "x", out="s"), node("Div", "s", "d", out="q"), node("Reshape", "x", "r", out="f"), node("Cast", "q", to=1, out="g"),
                          node("ReduceSum", "g", out="t"), node("Mul", "f", "t")], {"d": I64(1, 2, 5, 7), "r": I64(0, -1)}),
    "constant": ([node("Constant", out="c", value_floats=[0.3]), node("Pow", "x", "two", out="p"), node("Div", "p", "c")], {"two": np.float32(2)}),
    "space to depth": ([node("SpaceToDepth", "x", blocksize=4)], {}),
    "depth to space": ([node("SpaceToDepth", "x", blocksize=4, out="s"), node("DepthToSpace", "s", blocksize=4, mode="CRD")], {}),
    "dropout": ([node("Dropout", "x")], {}), "reduce squares": ([node("ReduceSumSquare", "x", "a")], {"a": I64(1)}),
    "range": ([node("Range", "a", "b", "c", out="r"), node("Cast", "r", to=1, out="f"), node("Add", "x", "f")], {"a": I64(64)[0], "b": I64(0)[0], "c": I64(-2)[0]}),
    "comparisons": ([node("Less", "x", "z", out="l"), node("Equal", "x", "z", out="e"), node("Or", "l", "e", out="o"), node("And", "o", "l", out="a"),
                     node("CastLike", "a", "x")], {"z": np.float32(0.1)}),
    "size": ([node("Size", "x", out="s"), node("Cast", "s", to=1, out="f"), node("ReduceMin", "x", out="m"), node("Mul", "f", "m")], {}),
    "gelu (opset 20)": ([node("Gelu", "x", approximate="tanh", out="g"), node("Gelu", "g")], {}),
    "group norm (opset 21)": ([node("Concat", "x", "x", axis=1, out="c"), node("GroupNormalization", "c", "s", "b", num_groups=2)],
                              {"s": weights(6), "b": weights(6)}),
}
ONE |= {kind: ([node("Abs", "x", out="a"), node("Add", "a", "e", out="p"), node(kind, "p")], {"e": np.float32(0.1)}) for kind in ("Sqrt", "Log", "Reciprocal")}
ONE |= {kind: ([node(kind, "x")], {}) for kind in
        ("Relu", "Sigmoid", "Tanh", "Softplus", "Softsign", "HardSwish", "Mish", "Erf", "Selu", "Exp", "Abs", "Neg", "Identity")}


@pytest.mark.parametrize("name", ONE)
def test_each_operator_computes_what_onnxruntime_does(name):
    nodes, constants = ONE[name]
    model = graph_of(nodes, constants, opset=int(name[-3:-1]) if "(opset" in name else 18)
    x = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    network = loader.OnnxNetwork(model.graph, "y")
    (theirs,) = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x.numpy()})
    torch.testing.assert_close(network(x), torch.from_numpy(theirs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("opset", [12, 17, 20])
def test_an_exported_network_is_the_network(opset):
    net, x = Net().eval(), images()
    content = onnx_file(net, opset=opset)
    made = load_foreign(content, spec_of("onnx"), WHERE)
    probe(made, WHERE)
    loader.require_same_as_onnxruntime(made, content, probe_images(SIZE), WHERE)
    x.requires_grad_()
    ours, exact = made(x), torch.diff(net(normalised(x)), dim=1)[:, 0]
    torch.testing.assert_close(ours, exact, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.autograd.grad(ours.sum(), x)[0], torch.autograd.grad(exact.sum(), x)[0], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("last, outputs, output, bare", [
    (nn.Sigmoid(), 1, "probability", "logit"), (nn.Softmax(1), 2, "two_probabilities", "two_logits")])
def test_a_last_sigmoid_or_softmax_is_taken_off_so_that_nothing_saturates(last, outputs, output, bare):
    net = Net(outputs, last).eval()
    net.head.weight.data *= 1000
    content = onnx_file(net)
    made = load_foreign(content, spec_of("onnx", output=output), WHERE)
    probe(made, WHERE)
    loader.require_same_as_onnxruntime(made, content, probe_images(SIZE), WHERE)
    assert made.output == bare
    x = images()
    net.last = nn.Identity()
    raw = net(normalised(x))
    exact = torch.diff(raw, dim=1)[:, 0] if outputs == 2 else raw[:, 0]
    assert exact.abs().max() > 30  # where a float32 sigmoid is 1
    torch.testing.assert_close(made(x), exact, rtol=1e-3, atol=1e-3)


def test_a_network_that_onnxruntime_sees_differently_is_refused():
    content = onnx_file(Net().eval())
    made = load_foreign(content, spec_of("onnx"), WHERE)
    next(buffer for name, buffer in made.network.named_buffers() if buffer.ndim == 4).add_(0.05)
    with pytest.raises(UserError, match=f"{WHERE}: onnxruntime gives outputs that differ from ours by"):
        loader.require_same_as_onnxruntime(made, content, probe_images(SIZE), WHERE)


def external(path):
    model = onnx.load_model_from_string(onnx_file(Net().eval()))
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=path)
    return model


def of_mean(*more, **keywords):
    return graph_of([node("ReduceMean", "x", "a", out="m", keepdims=0), *more], {"a": I64(2, 3)}, **keywords)


REFUSED = {
    "custom operator": (of_mean(helper.make_node("Evil", ["m"], ["y"], domain="evil.ops")), "uses evil.ops.Evil"),
    "loop": (of_mean(helper.make_node("Loop", ["", "", "m"], ["y"], body=helper.make_graph([], "b", [], []))), "uses Loop"),
    "quantised": (of_mean(node("QuantizeLinear", "m", "s", "z"), opset=18), "uses QuantizeLinear.*no gradient"),
    "external": (external("/etc/passwd"), "keeps .* in another file, which is not opened"),
    "two outputs": (of_mean(node("Relu", "m"), outputs=("y", "m")), r"has 2 outputs \(y, m\)"),
    "two inputs": (of_mean(node("Add", "m", "z"), inputs=("x", "z")), r"has 2 inputs \(x, z\)"),
    "bytes": (of_mean(node("Relu", "m"), element=TensorProto.UINT8), "takes UINT8, not float32"),
    "size": (of_mean(node("Relu", "m"), size=48), r"takes images of shape \[None, 3, 48, 48\]"),
    "old": (of_mean(node("Relu", "m"), opset=9), "is of opset 9"),
    "memory": (graph_of([node("Tile", "x", "r", out="t"), node("ReduceMean", "t", "a", keepdims=0)], {"r": I64(1, 1, 2**20, 2**20), "a": I64(2, 3)}),
               "operator Tile .* a tensor of shape"),
    "missing": (of_mean(node("Relu", "nowhere")), "can not be run on 3 images"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_named(name):
    model, told = REFUSED[name]
    with pytest.raises(UserError, match=told):
        probe(load_foreign(model.SerializeToString(), spec_of("onnx"), WHERE), WHERE)


def test_a_fixed_batch_is_told_before_it_gives_wrong_numbers():
    with pytest.raises(UserError, match="takes exactly 2 images at once; export it with a free batch axis"):
        load_foreign(onnx_file(Net().eval(), batch=2), spec_of("onnx"), WHERE)
