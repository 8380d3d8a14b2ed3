"""From tables to tables: nothing here draws, and nothing reads files."""
