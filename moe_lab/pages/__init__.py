"""What notebooks show: one folder per notebook, with its tables, plots and findings."""
