"""What a person may do. Every act is audited with who did it."""
