"""MoE align & sort algorithms, one file each."""
