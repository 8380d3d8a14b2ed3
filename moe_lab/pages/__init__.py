"""What a notebook shows: one folder a notebook with its tables, plots and findings."""
