"""ONNX files: a list of operators with tensors, which is data and not a program. We run it with torch, as a chain of
differentiable functions, and onnxruntime must give the same numbers before anything is attacked.

No library is left that does this: onnx2torch 1.5.15 (the last, 2024) can not read what torch exports today (opset 18 and
above: ReduceMean-18 and Identity-19 of a ResNet-18 have no converter there).

Refused before anything is computed: operators outside `OPERATORS` (so no loops, branches, functions of the file, or
custom operators, which are native code), values kept in other files, and files that are no ONNX.
"""

from __future__ import annotations

import onnx
import torch
from google.protobuf.message import DecodeError
from torch import Tensor, nn

from robust.config import AuditedModelConfig
from robust.errors import UserError
from robust.models.foreign.onnx_operators import OPERATORS, attribute_value, to_tensor

TOLERANCE = 1e-3
"""Difference from onnxruntime, relative to the largest output, that another order of float32 sums explains."""
BARE = {("probability", "Sigmoid"): "logit", ("two_probabilities", "Softmax"): "two_logits"}
"""A last operator that is taken off, so that the attack sees logits and not a saturating probability."""


class OnnxNetwork(nn.Module):
    """The graph as a module; its tensors are buffers, so they move and are hashed like any weights.

    Args:
        graph: of a checked file.
        output: name of the value to give.
    """

    def __init__(self, graph: onnx.GraphProto, output: str):
        super().__init__()
        self.nodes = [(node.op_type, list(node.input), list(node.output), {a.name: attribute_value(a) for a in node.attribute})
                      for node in _needed(graph, output)]
        self.constants: dict[str, str] = {}
        used = {name for _, inputs, _, _ in self.nodes for name in inputs}
        for index, tensor in enumerate(graph.initializer):
            if tensor.name in used:
                self.constants[tensor.name] = f"constant_{index}"
                self.register_buffer(f"constant_{index}", to_tensor(tensor))
        self.input, self.output = _image_input(graph).name, output

    def forward(self, x: Tensor) -> Tensor:
        values: dict[str, Tensor | None] = {"": None, self.input: x}
        values |= {name: getattr(self, buffer) for name, buffer in self.constants.items()}
        for kind, inputs, outputs, attributes in self.nodes:
            given = [values[name] for name in inputs]
            if kind not in SHAPES:  # what a node computed of shapes alone is on the CPU
                given = [one.to(x.device) if one is not None else None for one in given]
            more = {"outputs": len(outputs)} if kind == "Split" else {}
            try:
                result = OPERATORS[kind](attributes, *given, **more)
            except Exception as error:  # of torch, of an attribute that is missing, of a variant that is not here
                raise UserError(f"operator {kind} ({outputs[0]}) can not be computed: {type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}") from None
            values.update(zip(outputs, result if isinstance(result, tuple) else (result,)))
        return values[self.output]


SHAPES = ("Reshape", "Expand", "Slice", "Tile", "ConstantOfShape", "Range", "Resize", "Pad", "ReduceMean", "ReduceSum", "Squeeze", "Unsqueeze")
"""Operators that read some of their inputs as Python numbers."""


def load_onnx(content: bytes, spec: AuditedModelConfig, where: str) -> tuple[nn.Module, str]:
    """Raises UserError: the file is damaged, needs what is not here, or onnxruntime computes something else from it."""
    model = _parse(content, where)
    graph = model.graph
    _require_plain(model, where)
    _require_input(graph, spec, where)
    output, given = graph.output[0].name, spec.output
    last = next((node for node in graph.node if output in node.output), None)
    if last is not None and (spec.output, last.op_type) in BARE and _over_classes(last):
        output, given = last.input[0], BARE[spec.output, last.op_type]
    try:
        network = OnnxNetwork(graph, output)
    except (ValueError, TypeError, KeyError, RuntimeError, AttributeError) as error:
        raise UserError(f"{where}: a tensor of it can not be read ({type(error).__name__}: {str(error)[:200]}); export it again") from None
    return network.eval(), given


def _parse(content: bytes, where: str) -> onnx.ModelProto:
    try:
        model = onnx.load_model_from_string(content)
    except DecodeError as error:
        raise UserError(f"{where}: is not an ONNX file, or not a whole one ({error}); export it again") from None
    if not model.graph.node or not model.graph.output:
        raise UserError(f"{where}: is not an ONNX file, or an empty one: it has no operators; export it again")
    return model


def _require_plain(model: onnx.ModelProto, where: str) -> None:
    graph = model.graph
    foreign = sorted({f"{node.domain}.{node.op_type}" for node in graph.node if node.domain not in ("", "ai.onnx")})
    unknown = sorted({node.op_type for node in graph.node if node.op_type not in OPERATORS})
    if foreign or unknown or model.functions:
        names = ", ".join([*foreign, *unknown, *(f"function {one.name}" for one in model.functions)][:5])
        raise UserError(f"{where}: uses {names}, which is not among the {len(OPERATORS)} operators that can be attacked here; nothing of it was run. "
                        "Export it in float32 for inference with standard operators of opset 11 or above (quantised ones have no gradient)")
    if len(graph.output) != 1:
        names = ", ".join(output.name for output in graph.output)
        raise UserError(f"{where}: has {len(graph.output)} outputs ({names}); export it with the scores alone")
    tensors = [*graph.initializer, *(attribute.t for node in graph.node for attribute in node.attribute)]
    if outside := [tensor for tensor in tensors if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data]:
        raise UserError(f"{where}: keeps {outside[0].name or 'values'} in another file, which is not opened; save it as one file (external_data=False)")
    if graph.sparse_initializer or any(attribute.HasField("g") or attribute.graphs for node in graph.node for attribute in node.attribute):
        raise UserError(f"{where}: has graphs inside its graph, or sparse tensors; export it without control flow")
    opsets = {one.domain: one.version for one in model.opset_import}
    if opsets.get("", 0) < 11:
        raise UserError(f"{where}: is of opset {opsets.get('', 0)}; export it with opset 11 or above")
    for node in graph.node:
        if node.op_type in ("Softmax", "LogSoftmax") and opsets[""] < 13 and not any(a.name == "axis" for a in node.attribute):
            raise UserError(f"{where}: its {node.op_type} is of opset {opsets['']}, which flattens; export it with opset 13 or above")


def _require_input(graph: onnx.GraphProto, spec: AuditedModelConfig, where: str) -> None:
    image = _image_input(graph, where)
    sizes = [one.dim_value or None for one in image.type.tensor_type.shape.dim]
    wanted = [None, 3, spec.input_size, spec.input_size] if spec.layout == "nchw" else [None, spec.input_size, spec.input_size, 3]
    if image.type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
        raise UserError(f"{where}: takes {onnx.TensorProto.DataType.Name(image.type.tensor_type.elem_type)}, not float32; export it in float32")
    fits = not sizes or (len(sizes) == 4 and all(have in (None, want) for have, want in zip(sizes[1:], wanted[1:])))
    if not fits:
        raise UserError(f"{where}: takes images of shape {sizes}, and the settings say {wanted}; see input_size and layout")
    if sizes and sizes[0] is not None:
        raise UserError(f"{where}: takes exactly {sizes[0]} images at once; export it with a free batch axis (dynamic_axes or dynamic_shapes)")


def _image_input(graph: onnx.GraphProto, where: str = "ONNX file") -> onnx.ValueInfoProto:
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [one for one in graph.input if one.name not in constants]
    if len(inputs) != 1:
        raise UserError(f"{where}: has {len(inputs)} inputs ({', '.join(one.name for one in inputs)}); export it with the image alone")
    return inputs[0]


def _over_classes(node: onnx.NodeProto) -> bool:
    axis = next((a.i for a in node.attribute if a.name == "axis"), -1)
    return node.op_type == "Sigmoid" or axis in (1, -1)


def _needed(graph: onnx.GraphProto, output: str) -> list[onnx.NodeProto]:
    """Nodes that lead to a value, in the file's order, which is that of computing."""
    wanted, chosen = {output}, []
    for node in reversed(graph.node):
        if wanted & set(node.output):
            wanted |= set(node.input)
            chosen.append(node)
    return chosen[::-1]


def require_same_as_onnxruntime(model, content: bytes, x: Tensor, where: str) -> None:
    """What we compute from a file is what onnxruntime does.

    Args:
        model: a ForeignDetector of it.
        x: (N, 3, H, W) images in [0, 1].
    Raises:
        UserError: it is not, or onnxruntime can not run it.
    """
    import onnxruntime  # only where a model is tried, not in every worker

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    with torch.no_grad():
        ours, prepared = model.network(model.prepare(x)), model.prepare(x).contiguous().numpy()
    if model.output != model.spec.output:  # the last operator was taken off: for onnxruntime, too
        bare = onnx.load_model_from_string(content)
        bare.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info(model.network.output, onnx.TensorProto.FLOAT, None))
        content = bare.SerializeToString()
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        (theirs,) = session.run(None, {session.get_inputs()[0].name: prepared})
    except Exception as error:  # onnxruntime has no common class of its errors
        raise UserError(f"{where}: onnxruntime can not run it ({str(error).splitlines()[0][:200]}); export it again") from None
    theirs = torch.from_numpy(theirs)
    apart = float("inf") if theirs.shape != ours.shape else ((ours - theirs).abs().max() / theirs.abs().max().clamp_min(1e-6)).item()
    if not apart <= TOLERANCE:
        raise UserError(f"{where}: onnxruntime gives outputs that differ from ours by {apart:.2g}; it is not attacked, as that would be another model. "
                        "Export it with another opset, or as TorchScript")
