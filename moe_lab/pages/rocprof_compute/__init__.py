"""The page of notebook 05: counters of AMD GPUs."""
