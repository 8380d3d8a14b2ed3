# SPDX-License-Identifier: Apache-2.0
"""Compiles kernels as their launchers would on a GPU that this machine lacks, and lists the machine code."""
