"""What a notebook shows of hardware counters: sentences, figures and tables."""
