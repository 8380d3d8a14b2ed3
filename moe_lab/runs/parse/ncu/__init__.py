"""Parts of the readers of Nsight Compute."""
