"""What needs torch: the kernels, the layer and what measures them; runs in a process of its own."""
