"""The page of notebook 01: where the time of one layer goes."""
