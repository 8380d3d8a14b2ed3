"""Profilers, one file each."""
