"""Notebook 10 to come: what compiled code says. So far its findings, which moe-lab inspect prints."""
