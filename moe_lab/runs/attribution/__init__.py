"""From events to launches: which range and stage each kernel belongs to."""
