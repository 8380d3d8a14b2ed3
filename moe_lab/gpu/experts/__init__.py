"""Experts backends, one file each."""
