"""Compiles Triton kernels as their launchers would on a GPU that is not there, and lists the code."""
