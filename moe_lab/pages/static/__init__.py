"""What compiled code says: findings, which ``moe-lab inspect`` prints, and tables for docs/static.md."""
