"""The page of notebook 03: hardware counters of the expert GEMMs."""
