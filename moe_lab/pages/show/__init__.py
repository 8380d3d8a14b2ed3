"""What the pages share: tables, figures, findings, notes."""
