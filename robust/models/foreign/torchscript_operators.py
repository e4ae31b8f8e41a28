"""TorchScript's instructions that a file may use: arithmetic on tensors, numbers, lists and shapes.

The list is what tracing, scripting and freezing 31 classifiers of timm 1.0.31 and torchvision 0.29 gave, and their near
relatives. None opens a file or a connection, starts a thread, changes the module or calls Python; `warn` and
`RaiseException` can show a text of the file.
"""

_ATEN = """
    Bool Float Int __and__ __or__ __contains__ __getitem__ __is__ __isnot__ __not__ _set_item append copy extend insert list len format dict keys values
    _convolution conv1d conv2d linear addmm mm bmm baddbmm matmul einsum
    _native_multi_head_attention scaled_dot_product_attention
    batch_norm layer_norm group_norm instance_norm norm linalg_vector_norm normalize
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool2d avg_pool1d avg_pool2d max_pool1d max_pool2d
    upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_trilinear3d
    _upsample_bicubic2d_aa _upsample_bilinear2d_aa _upsample_lanczos2d_aa _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d
    pad constant_pad2d reflection_pad2d replication_pad2d pixel_shuffle pixel_unshuffle
    dropout dropout_ feature_dropout bernoulli_
    relu relu_ relu6 relu6_ leaky_relu leaky_relu_ prelu elu elu_ selu selu_ celu gelu gelu_ silu silu_ mish mish_ softplus sigmoid sigmoid_ tanh tanh_
    hardsigmoid hardsigmoid_ hardswish hardswish_ hardtanh hardtanh_ softmax log_softmax log_sigmoid erf
    add add_ sub sub_ rsub mul mul_ div div_ neg pow sqrt rsqrt exp log abs square reciprocal sin cos floor ceil round floor_divide floordiv remainder
    clamp clamp_ clamp_min clamp_max maximum minimum where sum mean amax amin max min std var all any cumsum argmax
    eq ne lt le gt ge logical_not logical_and logical_or is_floating_point is_grad_enabled is_autocast_enabled isnan isinf
    cat stack chunk split split_with_sizes unbind select slice index index_select gather narrow squeeze unsqueeze flatten unflatten reshape view
    view_as expand expand_as permute transpose t roll repeat movedim contiguous clone detach to type_as size dim numel
    empty zeros zeros_like ones ones_like full full_like new_empty new_zeros new_ones arange tensor fill_ zero_ copy_ masked_fill masked_fill_ warn
"""
_PRIM = """
    Constant GetAttr If Loop ListConstruct ListUnpack TupleConstruct TupleIndex TupleSlice TupleUnpack DictConstruct NumToTensor RaiseException
    Uninitialized device dtype is_nested isinstance max min requires_grad type unchecked_cast unchecked_unwrap_optional data shape layout
"""
ALLOWED = frozenset({f"aten::{name}" for name in _ATEN.split()} | {f"prim::{name}" for name in _PRIM.split()})
