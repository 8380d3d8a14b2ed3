"""Triton device code shared by align/ and experts/."""
