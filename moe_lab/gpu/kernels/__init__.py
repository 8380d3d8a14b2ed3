"""Triton device code, each file with its host launcher and, under the same name, a torch reference."""
