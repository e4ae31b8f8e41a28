"""ONNX operators in torch, those that image classifiers are made of; each differentiable where its meaning is.

An operator is a function of the node's attributes and its inputs; an input that the node leaves out is None. Checked
against onnxruntime in tests/models/test_foreign_onnx.py, and again for each model when it is loaded.
Source of what each means: the ONNX operator specification (onnx.ai/onnx/operators).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

MAX_ELEMENTS = 2**28
"""Of a tensor that an operator makes to a shape read from the file: 1 GiB of float32."""


class Unsupported(Exception):
    """A variant of an operator that is not here; says which."""


def _ints(value: Tensor | Sequence[int] | None) -> list[int] | None:
    """A shape or list of axes, which newer opsets give as a tensor."""
    return None if value is None else [int(one) for one in (value.reshape(-1).tolist() if isinstance(value, Tensor) else value)]


def _bounded(shape: Sequence[int]) -> list[int]:
    if any(size < 0 for size in shape) or math.prod(shape) > MAX_ELEMENTS:
        raise Unsupported(f"a tensor of shape {list(shape)}")
    return list(shape)


# ---------------------------------------------------------------------------------------------------- convolution, pooling


def _pads(attributes: dict, x: Tensor, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> tuple[list[int], list[int]]:
    """(before, after) of each spatial axis."""
    axes, how = len(kernel), attributes.get("auto_pad", b"NOTSET").decode()
    if how == "NOTSET":
        pads = attributes.get("pads", [0] * 2 * axes)
        return list(pads[:axes]), list(pads[axes:])
    if how == "VALID":
        return [0] * axes, [0] * axes
    sizes = x.shape[2:]
    total = [max(0, (-(-size // s) - 1) * s + (k - 1) * d + 1 - size) for size, k, s, d in zip(sizes, kernel, strides, dilations)]
    less, more = [one // 2 for one in total], [one - one // 2 for one in total]
    return (less, more) if how == "SAME_UPPER" else (more, less)


def _padded(x: Tensor, before: Sequence[int], after: Sequence[int], value: float = 0.0) -> Tensor:
    if not any(before) and not any(after):
        return x
    flat = [size for pair in zip(reversed(before), reversed(after)) for size in pair]
    _bounded([*x.shape[:2], *(size + b + a for size, b, a in zip(x.shape[2:], before, after))])
    return F.pad(x, flat, value=value)


def _windows(attributes: dict, x: Tensor, kernel: Sequence[int]) -> tuple:
    axes = len(kernel)
    strides, dilations = attributes.get("strides", [1] * axes), attributes.get("dilations", [1] * axes)
    return list(strides), list(dilations), *_pads(attributes, x, kernel, strides, dilations)


def conv(attributes: dict, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    strides, dilations, before, after = _windows(attributes, x, weight.shape[2:])
    function = {3: F.conv1d, 4: F.conv2d}[x.ndim]
    inside = before if before == after else [0] * len(before)
    if before != after:
        x = _padded(x, before, after)
    return function(x, weight, bias, strides, inside, dilations, attributes.get("group", 1))


def max_pool(attributes: dict, x: Tensor) -> Tensor:
    kernel = attributes["kernel_shape"]
    strides, dilations, before, after = _windows(attributes, x, kernel)
    ceil = bool(attributes.get("ceil_mode", 0))
    if before == after and all(2 * pad <= size for pad, size in zip(before, kernel)):
        return F.max_pool2d(x, kernel, strides, before, dilations, ceil)
    return F.max_pool2d(_padded(x, before, after, -math.inf), kernel, strides, 0, dilations, ceil)


def average_pool(attributes: dict, x: Tensor) -> Tensor:
    kernel = attributes["kernel_shape"]
    strides, dilations, before, after = _windows(attributes, x, kernel)
    if any(one != 1 for one in dilations):
        raise Unsupported("dilations")
    ceil, count_pads = bool(attributes.get("ceil_mode", 0)), bool(attributes.get("count_include_pad", 0))
    if before == after:
        return F.avg_pool2d(x, kernel, strides, before, ceil, count_pads)
    if ceil:
        raise Unsupported("ceil_mode with uneven pads")
    sums = F.avg_pool2d(_padded(x, before, after), kernel, strides)
    if count_pads:
        return sums
    return sums / F.avg_pool2d(_padded(torch.ones_like(x[:1, :1]), before, after), kernel, strides)


# ---------------------------------------------------------------------------------------------------- normalisation


def batch_normalization(attributes: dict, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    if attributes.get("training_mode", 0):
        raise Unsupported("training_mode; export the model in evaluation mode")
    return F.batch_norm(x, mean, variance, scale, bias, False, 0.0, attributes.get("epsilon", 1e-5))


def layer_normalization(attributes: dict, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    axis = attributes.get("axis", -1)
    return F.layer_norm(x, x.shape[axis:], scale, bias, attributes.get("epsilon", 1e-5))


def instance_normalization(attributes: dict, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return F.instance_norm(x, weight=scale, bias=bias, eps=attributes.get("epsilon", 1e-5))


def group_normalization(attributes: dict, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    groups = attributes["num_groups"]
    if len(scale) != x.shape[1]:  # opset 18 has one a group
        scale, bias = (one.repeat_interleave(x.shape[1] // groups) for one in (scale, bias))
    return F.group_norm(x, groups, scale, bias, attributes.get("epsilon", 1e-5))


# ---------------------------------------------------------------------------------------------------- linear


def gemm(attributes: dict, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    a = a.T if attributes.get("transA", 0) else a
    b = b.T if attributes.get("transB", 0) else b
    product = attributes.get("alpha", 1.0) * (a @ b)
    return product if c is None else product + attributes.get("beta", 1.0) * c


# ---------------------------------------------------------------------------------------------------- reductions


def _reduction(function: Callable[..., Tensor]) -> Callable:
    def reduce(attributes: dict, x: Tensor, axes: Tensor | None = None) -> Tensor:
        axes = _ints(attributes.get("axes") if axes is None else axes)
        if not axes:
            if attributes.get("noop_with_empty_axes", 0):
                return x
            axes = list(range(x.ndim))
        return function(x, axes, bool(attributes.get("keepdims", 1)))
    return reduce


# ---------------------------------------------------------------------------------------------------- shapes


def reshape(attributes: dict, x: Tensor, shape: Tensor) -> Tensor:
    sizes = _ints(shape)
    if not attributes.get("allowzero", 0):
        sizes = [x.shape[i] if size == 0 else size for i, size in enumerate(sizes)]
    return x.reshape(sizes)


def flatten(attributes: dict, x: Tensor) -> Tensor:
    axis = attributes.get("axis", 1) % (x.ndim + 1) if x.ndim else 0
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


def squeeze(attributes: dict, x: Tensor, axes: Tensor | None = None) -> Tensor:
    axes = _ints(attributes.get("axes") if axes is None else axes)
    return x.squeeze() if axes is None else x.squeeze(tuple(axes))


def unsqueeze(attributes: dict, x: Tensor, axes: Tensor | None = None) -> Tensor:
    axes = _ints(attributes.get("axes") if axes is None else axes)
    for axis in sorted(axis % (x.ndim + len(axes)) for axis in axes):
        x = x.unsqueeze(axis)
    return x


def transpose(attributes: dict, x: Tensor) -> Tensor:
    return x.permute(attributes.get("perm", list(reversed(range(x.ndim)))))


def expand(attributes: dict, x: Tensor, shape: Tensor) -> Tensor:
    return x.expand(_bounded(torch.broadcast_shapes(x.shape, _ints(shape))))


def slice_(attributes: dict, x: Tensor, starts=None, ends=None, axes=None, steps=None) -> Tensor:
    starts, ends = (_ints(attributes.get(name) if given is None else given) for name, given in (("starts", starts), ("ends", ends)))
    axes = _ints(attributes.get("axes") if axes is None else axes) or list(range(len(starts)))
    steps = _ints(steps) or [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        chosen = range(*slice(start, end, step).indices(x.shape[axis])) if step > 0 else _backwards(start, end, step, x.shape[axis])
        if step > 0:
            index = [slice(None)] * x.ndim
            index[axis] = slice(chosen.start, chosen.stop, chosen.step)
            x = x[tuple(index)]
        else:
            x = x.index_select(axis, torch.tensor(list(chosen), device=x.device, dtype=torch.long))
    return x


def _backwards(start: int, end: int, step: int, size: int) -> range:
    start = min(start + size if start < 0 else start, size - 1)
    end = -1 if end < -size else (end + size if end < 0 else end)
    return range(start, end, step)


def gather(attributes: dict, x: Tensor, indices: Tensor) -> Tensor:
    axis = attributes.get("axis", 0) % x.ndim
    flat = indices.reshape(-1).long()
    flat = torch.where(flat < 0, flat + x.shape[axis], flat)
    shape = [*x.shape[:axis], *indices.shape, *x.shape[axis + 1:]]
    return x.index_select(axis, flat).reshape(_bounded(shape))


def split(attributes: dict, x: Tensor, sizes: Tensor | None = None, *, outputs: int) -> tuple[Tensor, ...]:
    axis, sizes = attributes.get("axis", 0), _ints(attributes.get("split") if sizes is None else sizes)
    if sizes is None:
        each = -(-x.shape[axis] // attributes.get("num_outputs", outputs))
        return x.split(each, axis)
    return x.split(sizes, axis)


def pad(attributes: dict, x: Tensor, pads=None, value=None, axes=None) -> Tensor:
    pads = _ints(attributes.get("pads") if pads is None else pads)
    axes = _ints(axes) or list(range(x.ndim))
    value = float(attributes.get("value", 0.0) if value is None else value)
    before, after = [0] * x.ndim, [0] * x.ndim
    for i, axis in enumerate(axes):
        before[axis], after[axis] = pads[i], pads[i + len(axes)]
    _bounded([size + b + a for size, b, a in zip(x.shape, before, after)])
    mode = attributes.get("mode", b"constant").decode()
    if mode == "constant":
        return F.pad(x, [size for pair in zip(reversed(before), reversed(after)) for size in pair], value=value)
    if mode not in ("reflect", "edge") or x.ndim != 4 or any(before[:2]) or any(after[:2]):
        raise Unsupported(f"mode {mode} of these axes")
    return F.pad(x, [before[3], after[3], before[2], after[2]], mode={"reflect": "reflect", "edge": "replicate"}[mode])


def tile(attributes: dict, x: Tensor, repeats: Tensor) -> Tensor:
    repeats = _ints(repeats)
    _bounded([size * times for size, times in zip(x.shape, repeats, strict=True)])
    return x.repeat(repeats)


def constant_of_shape(attributes: dict, shape: Tensor) -> Tensor:
    value = attributes.get("value", torch.zeros(1))
    return value.reshape(()).expand(_bounded(_ints(shape))).clone()


def range_(attributes: dict, start: Tensor, limit: Tensor, step: Tensor) -> Tensor:
    start, limit, step = (one.item() for one in (start, limit, step))
    _bounded([max(0, math.ceil((limit - start) / step))])
    return torch.arange(start, limit, step)


def resize(attributes: dict, x: Tensor, roi=None, scales=None, sizes=None) -> Tensor:
    mode, where = attributes.get("mode", b"nearest").decode(), attributes.get("coordinate_transformation_mode", b"half_pixel").decode()
    nearest = attributes.get("nearest_mode", b"round_prefer_floor").decode()
    if attributes.get("antialias", 0) or attributes.get("exclude_outside", 0) or attributes.get("axes") or x.ndim != 4:
        raise Unsupported("antialias, exclude_outside or axes")
    scales = None if scales is None or scales.numel() == 0 else [float(scale) for scale in scales.tolist()]
    target = _ints(sizes) if scales is None else [math.floor(size * scale) for size, scale in zip(x.shape, scales, strict=True)]
    if target[:2] != list(x.shape[:2]):
        raise Unsupported("batch or channels")
    target = _bounded(target)[2:]
    if mode == "nearest" and where == "asymmetric" and nearest == "floor":
        return F.interpolate(x, target, mode="nearest")
    if mode == "linear" and where in ("half_pixel", "pytorch_half_pixel", "align_corners"):
        return F.interpolate(x, target, mode="bilinear", align_corners=where == "align_corners")
    raise Unsupported(f"mode {mode}, {where}, {nearest}")


TYPES = {1: torch.float32, 2: torch.uint8, 3: torch.int8, 5: torch.int16, 6: torch.int32, 7: torch.int64, 9: torch.bool,
         10: torch.float16, 11: torch.float64, 16: torch.bfloat16}
"""By the numbers of onnx.TensorProto.DataType."""


def cast(attributes: dict, x: Tensor, like: Tensor | None = None) -> Tensor:
    return x.to(like.dtype if like is not None else TYPES[attributes["to"]])


def shape_(attributes: dict, x: Tensor) -> Tensor:
    sizes = list(x.shape)[slice(attributes.get("start", 0), attributes.get("end"))]
    return torch.tensor(sizes, dtype=torch.int64)


def divide(attributes: dict, a: Tensor, b: Tensor) -> Tensor:
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def clip(attributes: dict, x: Tensor, low=None, high=None) -> Tensor:
    low = attributes.get("min") if low is None else low.reshape(()).to(x)
    high = attributes.get("max") if high is None else high.reshape(()).to(x)
    x = x if low is None else torch.maximum(x, torch.as_tensor(low, dtype=x.dtype, device=x.device))
    return x if high is None else torch.minimum(x, torch.as_tensor(high, dtype=x.dtype, device=x.device))


def constant(attributes: dict) -> Tensor:
    for name, dtype in (("value_float", torch.float32), ("value_floats", torch.float32), ("value_int", torch.int64), ("value_ints", torch.int64)):
        if name in attributes:
            return torch.tensor(attributes[name], dtype=dtype)
    return attributes["value"]


def _all(function: Callable[[Tensor, Tensor], Tensor]) -> Callable:
    def fold(attributes: dict, *inputs: Tensor) -> Tensor:
        result = inputs[0]
        for one in inputs[1:]:
            result = function(result, one)
        return result
    return fold


def _simple(function: Callable[..., Tensor]) -> Callable:
    return lambda attributes, *inputs: function(*inputs)


OPERATORS: dict[str, Callable] = {
    "Conv": conv, "MaxPool": max_pool, "AveragePool": average_pool,
    "GlobalAveragePool": lambda a, x: x.mean(tuple(range(2, x.ndim)), keepdim=True),
    "GlobalMaxPool": lambda a, x: x.amax(tuple(range(2, x.ndim)), keepdim=True),
    "BatchNormalization": batch_normalization, "LayerNormalization": layer_normalization,
    "InstanceNormalization": instance_normalization, "GroupNormalization": group_normalization,
    "LRN": lambda a, x: F.local_response_norm(x, a["size"], a.get("alpha", 1e-4), a.get("beta", 0.75), a.get("bias", 1.0)),
    "Gemm": gemm, "MatMul": _simple(torch.matmul), "Einsum": lambda a, *x: torch.einsum(a["equation"].decode(), *x),
    "Relu": _simple(torch.relu), "Sigmoid": _simple(torch.sigmoid), "Tanh": _simple(torch.tanh), "Softplus": _simple(F.softplus),
    "Softsign": _simple(F.softsign), "Mish": _simple(F.mish), "HardSwish": _simple(F.hardswish), "Erf": _simple(torch.erf),
    "LeakyRelu": lambda a, x: F.leaky_relu(x, a.get("alpha", 0.01)), "Elu": lambda a, x: F.elu(x, a.get("alpha", 1.0)),
    "Celu": lambda a, x: F.celu(x, a.get("alpha", 1.0)), "Selu": _simple(F.selu),
    "PRelu": lambda a, x, slope: torch.where(x < 0, slope * x, x),
    "HardSigmoid": lambda a, x: (a.get("alpha", 0.2) * x + a.get("beta", 0.5)).clamp(0, 1),
    "Gelu": lambda a, x: F.gelu(x, approximate=a.get("approximate", b"none").decode()),
    "Swish": lambda a, x: x * torch.sigmoid(a.get("alpha", 1.0) * x),
    "Softmax": lambda a, x: x.softmax(a.get("axis", -1)), "LogSoftmax": lambda a, x: x.log_softmax(a.get("axis", -1)),
    "Clip": clip, "Dropout": lambda a, x, *_: x, "Identity": lambda a, x: x, "Constant": constant,
    "Add": _simple(torch.add), "Sub": _simple(torch.sub), "Mul": _simple(torch.mul), "Div": divide, "Pow": _simple(torch.pow),
    "Sqrt": _simple(torch.sqrt), "Exp": _simple(torch.exp), "Log": _simple(torch.log), "Abs": _simple(torch.abs), "Neg": _simple(torch.neg),
    "Reciprocal": _simple(torch.reciprocal), "Sum": _all(torch.add), "Max": _all(torch.maximum), "Min": _all(torch.minimum),
    "Mean": lambda a, *x: _all(torch.add)(a, *x) / len(x),
    "ReduceMean": _reduction(lambda x, axes, keep: x.mean(axes, keepdim=keep)), "ReduceSum": _reduction(lambda x, axes, keep: x.sum(axes, keepdim=keep)),
    "ReduceMax": _reduction(lambda x, axes, keep: x.amax(axes, keepdim=keep)), "ReduceMin": _reduction(lambda x, axes, keep: x.amin(axes, keepdim=keep)),
    "ReduceL2": _reduction(lambda x, axes, keep: x.square().sum(axes, keepdim=keep).sqrt()),
    "ReduceSumSquare": _reduction(lambda x, axes, keep: x.square().sum(axes, keepdim=keep)),
    "Reshape": reshape, "Flatten": flatten, "Squeeze": squeeze, "Unsqueeze": unsqueeze, "Transpose": transpose, "Expand": expand,
    "Concat": lambda a, *x: torch.cat(x, a["axis"]), "Split": split, "Slice": slice_, "Gather": gather, "Pad": pad, "Tile": tile,
    "Shape": shape_, "Size": lambda a, x: torch.tensor(x.numel()), "ConstantOfShape": constant_of_shape, "Range": range_, "Resize": resize,
    "Cast": cast, "CastLike": cast, "Where": _simple(torch.where), "Equal": _simple(torch.eq), "Not": _simple(torch.logical_not),
    "Greater": _simple(torch.gt), "Less": _simple(torch.lt), "And": _simple(torch.logical_and), "Or": _simple(torch.logical_or),
    "DepthToSpace": lambda a, x: _depth_to_space(a, x), "SpaceToDepth": lambda a, x: _space_to_depth(a, x),
}


def _depth_to_space(attributes: dict, x: Tensor) -> Tensor:
    if attributes.get("mode", b"DCR") != b"CRD":
        raise Unsupported("mode DCR")
    return F.pixel_shuffle(x, attributes["blocksize"])


def _space_to_depth(attributes: dict, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    b = attributes["blocksize"]
    return x.reshape(n, c, h // b, b, w // b, b).permute(0, 3, 5, 1, 2, 4).reshape(n, c * b * b, h // b, w // b)


def attribute_value(attribute):
    """An attribute as a number, bytes, list or tensor."""
    import onnx

    if attribute.type == onnx.AttributeProto.TENSOR:
        return to_tensor(attribute.t)
    value = onnx.helper.get_attribute_value(attribute)
    return list(value) if not isinstance(value, (bytes, int, float)) else value


def to_tensor(proto) -> Tensor:
    """A tensor of the file; its values are in the file itself (see onnx_file)."""
    from onnx import numpy_helper

    return torch.from_numpy(np.array(numpy_helper.to_array(proto)))
