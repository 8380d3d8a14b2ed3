"""``moe-lab tune``: which tiles the GEMMs of a backend should take at how many tokens, found in a given time."""
