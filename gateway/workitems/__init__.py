"""Workitems (UPS, PS3.4 CC): ordered by other systems, followed by them, and performed here."""
