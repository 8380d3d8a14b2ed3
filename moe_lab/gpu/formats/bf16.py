# SPDX-License-Identifier: Apache-2.0
"""bfloat16 weights and activations without scales."""

INFO = {
    "about": "bfloat16 weights and activations",
    "needs": ["torch"],
    "source": "Google Brain; the dtype of most checkpoints",
    "dtype": "bf16",
    "weight_bits": 16,
    "activation_bits": 16,
}
