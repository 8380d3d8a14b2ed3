# SPDX-License-Identifier: Apache-2.0
"""Everything that needs torch: kernels, the layer, and what measures them; it runs in a process of its own."""
