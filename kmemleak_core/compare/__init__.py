"""Turns two analyses into what has changed between them: censuses, matched, then compared."""
