"""Shows a report, one renderer a format."""
