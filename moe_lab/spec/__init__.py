"""What both halves share: problem, names of ranges, schema of launches, plugins, options; imports no torch."""
