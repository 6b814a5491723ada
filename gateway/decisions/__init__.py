"""What is decided, and why: is a series complete, which rules want it, which of its volumes is taken. No I/O, no clock."""
