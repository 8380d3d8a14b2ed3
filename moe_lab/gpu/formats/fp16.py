# SPDX-License-Identifier: Apache-2.0
"""float16 weights and activations without scales."""

INFO = {
    "about": "float16 weights and activations",
    "needs": ["torch"],
    "source": "IEEE 754 binary16",
    "dtype": "fp16",
    "weight_bits": 16,
    "activation_bits": 16,
}
