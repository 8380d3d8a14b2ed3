"""Parts of the readers of AMD profilers."""
