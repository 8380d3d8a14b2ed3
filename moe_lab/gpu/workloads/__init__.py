"""What gets profiled: one decoder layer, the experts part, align algorithms."""
