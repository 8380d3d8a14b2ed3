# SPDX-License-Identifier: Apache-2.0
"""Kernels that torch.compile makes: which operators their names say they hold.

Inductor joins the kind of a kernel, the sorted names of the ATen operators that went into it and a number:
``triton_red_fused__to_copy_add_mean_mul_rsqrt_7`` (``get_fused_kernel_name`` in torch/_inductor/utils.py).
"""

import re
from functools import cache

# Names of ATen operators with underscores inside; a name that is not listed ends at the next underscore.
SEVERAL_WORDS = re.findall(
    r"\w+",
    """
    _adaptive_avg_pool2d _conj_physical _efficient_attention_forward _embedding_bag _flash_attention_forward
    _fused_rms_norm _grouped_mm _index_put_impl _int_mm _local_scalar_dense _log_softmax _native_batch_norm_legit
    _native_batch_norm_legit_functional _native_batch_norm_legit_no_training _prelu_kernel _reshape_alias
    _safe_softmax _scaled_dot_product_attention_math _scaled_dot_product_cudnn_attention
    _scaled_dot_product_efficient_attention _scaled_dot_product_flash_attention
    _scaled_dot_product_fused_attention_overrideable _scaled_grouped_mm _scaled_mm _softmax_backward_data _to_copy
    _unsafe_index _unsafe_index_put _unsafe_masked_index _unsafe_masked_index_put_accumulate _unsafe_view
    _weight_int4pack_mm _weight_int8pack_mm adaptive_avg_pool1d adaptive_avg_pool2d adaptive_max_pool2d as_strided
    as_strided_scatter avg_pool1d avg_pool2d batch_norm bitwise_and bitwise_left_shift bitwise_not bitwise_or
    bitwise_right_shift bitwise_xor block_diag broadcast_to clamp_max clamp_min constant_pad_nd cosine_similarity
    count_nonzero cross_entropy_loss diagonal_scatter embedding_dense_backward empty_like empty_permuted
    empty_strided expand_as flex_attention flex_attention_backward float_power floor_divide full_like
    grid_sampler_2d group_norm hardsigmoid_backward index_add index_copy index_fill index_put index_reduce
    index_select kl_div layer_norm leaky_relu lift_fresh log_sigmoid log_sigmoid_forward log_softmax logical_and
    logical_not logical_or logical_xor masked_fill masked_scatter masked_select max_pool2d max_pool2d_with_indices
    mse_loss nan_to_num native_batch_norm native_dropout native_group_norm native_layer_norm
    native_layer_norm_backward new_empty new_empty_strided new_full new_ones new_zeros nll_loss nll_loss_forward
    nonzero_static one_hot ones_like pixel_shuffle pixel_unshuffle rand_like randint_like randn_like
    reflection_pad1d reflection_pad2d repeat_interleave replication_pad2d rms_norm scalar_tensor
    scaled_dot_product_attention scatter_add scatter_reduce select_scatter sigmoid_backward silu_backward
    slice_scatter soft_margin_loss split_with_sizes squeeze_copy tanh_backward tensor_split threshold_backward
    true_divide upsample_bicubic2d upsample_bilinear2d upsample_nearest1d upsample_nearest2d view_as view_as_complex
    view_as_real zeros_like
    """,
)
_KERNEL = re.compile(r"(?:\w+_)?triton_(?:poi|red|per|spl|for|tem|mix)_fused_(\w+?)(?:_[0-9]+)?")


def operators(kernel: str) -> tuple[str, ...]:
    """Return the operators in the name of a kernel of torch.compile, in its order; none for other kernels.

    Operators that are not ATen's, such as those of an engine, are split at their underscores.
    """
    found = _KERNEL.fullmatch(kernel)
    return tuple(_operator().findall(found[1])) if found else ()


@cache
def _operator() -> "re.Pattern[str]":
    longest = sorted(SEVERAL_WORDS, key=len, reverse=True)
    return re.compile(rf"(?:^|_)({'|'.join(longest)}|_?[A-Za-z0-9]+)(?=_|$)")
