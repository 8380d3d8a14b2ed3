"""A kernel of one's own as an experts backend of moe_lab."""
