"""Table in, table out: no drawing, no files."""
