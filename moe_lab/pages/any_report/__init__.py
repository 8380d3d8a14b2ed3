"""Any report, whatever is in it."""
