"""Any two runs side by side."""
