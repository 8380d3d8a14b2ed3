"""Where outside data enters and leaves: sizes, types, characters, places, processes and signals."""
