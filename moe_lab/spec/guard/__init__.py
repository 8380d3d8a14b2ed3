"""Where data of others enters and leaves: sizes, types, characters, places, processes and signals."""
