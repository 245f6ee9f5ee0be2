"""What a ``.pt2`` file may call: operators that compute tensors from tensors and numbers, and arithmetic of sizes."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch

ARITHMETIC: dict[str, Callable[..., Any]] = {
    **{
        f"_operator.{name}": getattr(operator, name)
        for name in ("add", "sub", "mul", "floordiv", "truediv", "mod", "neg", "eq", "ne", "lt", "le", "gt", "ge")
    },
    "_operator.and_": operator.and_,
    "_operator.or_": operator.or_,
    "math.trunc": math.trunc,
    "torch.sym_not": torch.sym_not,
    "torch.sym_int": torch.sym_int,
    "torch.sym_float": torch.sym_float,
    "torch.sym_max": torch.sym_max,
    "torch.sym_min": torch.sym_min,
}
"""Arithmetic of sizes."""

OPERATORS = frozenset(
    """
    conv1d conv2d conv3d convolution conv_transpose1d conv_transpose2d conv_transpose3d _convolution linear addmm mm bmm
    matmul baddbmm einsum scaled_dot_product_attention embedding

    batch_norm _native_batch_norm_legit_no_training native_batch_norm instance_norm group_norm native_group_norm
    layer_norm native_layer_norm rms_norm local_response_norm dropout feature_dropout alpha_dropout

    max_pool1d max_pool2d max_pool3d max_pool2d_with_indices max_pool3d_with_indices avg_pool1d avg_pool2d
    avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d
    adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d

    upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact2d upsample_bilinear2d
    upsample_bicubic2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa upsample_trilinear3d grid_sampler grid_sampler_2d
    affine_grid_generator pixel_shuffle pixel_unshuffle channel_shuffle im2col col2im unfold

    relu relu6 leaky_relu prelu _prelu_kernel elu celu selu gelu silu mish sigmoid hardsigmoid hardswish hardtanh tanh
    softplus softsign softmax _softmax log_softmax _log_softmax logsigmoid threshold glu

    add sub rsub mul div pow sqrt rsqrt square exp expm1 log log1p log2 log10 abs neg sign reciprocal sin cos tan sinh
    cosh asin acos atan atan2 erf floor ceil round trunc frac fmod remainder floor_divide clamp clamp_min clamp_max
    clip maximum minimum lerp addcmul addcdiv true_divide multiply divide subtract special_expit logit isnan isinf
    nan_to_num

    eq ne lt le gt ge logical_and logical_or logical_not logical_xor bitwise_and bitwise_or bitwise_not bitwise_xor
    where masked_fill any all

    sum mean prod amax amin max min argmax argmin std var std_mean var_mean norm linalg_vector_norm logsumexp cumsum
    topk sort

    cat concat stack hstack vstack chunk split split_with_sizes unbind tensor_split narrow select slice index
    index_select gather scatter scatter_add index_put slice_scatter select_scatter take_along_dim diagonal tril triu
    flip roll rot90 repeat repeat_interleave tile

    view reshape flatten unflatten squeeze unsqueeze expand expand_as view_as permute transpose t numpy_T mT movedim
    swapaxes pad constant_pad_nd reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d contiguous clone
    copy alias detach lift_fresh_copy lift_fresh to _to_copy type_as fill zero

    zeros zeros_like new_zeros ones ones_like new_ones full full_like new_full arange linspace eye scalar_tensor
    meshgrid sym_size sym_numel item _local_scalar_dense _unsafe_view _unsafe_index
    """.split()  # noqa: SIM905 - a literal would be 200 lines
)
"""Operators of ``torch.ops.aten`` that compute tensors from tensors and numbers, by name, without the ``_`` of those
that work in place. Left out are those that open files (``from_file``, ``save``), hand out memory as it is
(``as_strided``, ``set_``, ``resize_``), draw random numbers, or belong to training."""
ZEROED: dict[str, Callable[..., Any]] = {
    "torch.ops.aten.empty.memory_format": torch.ops.aten.zeros.default,
    "torch.ops.aten.empty_like.default": torch.ops.aten.zeros_like.default,
    "torch.ops.aten.new_empty.default": torch.ops.aten.new_zeros.default,
}
"""What is computed instead of an operator that hands out memory as it is."""
ASSERTIONS = {"_assert_scalar", "_assert_tensor_metadata", "sym_constrain_range", "sym_constrain_range_for_size"}
"""Operators that compute nothing, and are left out of what is loaded."""


def resolve(target: str) -> Callable[..., Any] | None:
    """The operator or the arithmetic that a file calls ``target``; None if it may not call that."""
    if target in ARITHMETIC or target in ZEROED:
        return ARITHMETIC.get(target) or ZEROED[target]
    namespace, _, name_and_overload = target.partition("torch.ops.aten.")
    name, _, overload = name_and_overload.partition(".")
    if namespace or name.removesuffix("_") not in OPERATORS:
        return None
    packet = getattr(torch.ops.aten, name, None)
    if packet is None or overload not in packet.overloads():
        return None
    function: Callable[..., Any] = getattr(packet, overload)
    return function
