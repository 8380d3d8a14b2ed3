"""Parts of the Nsight Systems reader."""
