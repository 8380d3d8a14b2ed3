# SPDX-License-Identifier: Apache-2.0
"""float32 weights and activations without scales."""

INFO = {
    "about": "float32 weights and activations",
    "needs": ["torch"],
    "source": "IEEE 754 binary32",
    "dtype": "fp32",
    "weight_bits": 32,
    "activation_bits": 32,
    "engine": "float32",
}
