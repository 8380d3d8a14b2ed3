"""The experts benchmark: every backend on the same weights, tokens and routing, checked before it is timed."""
