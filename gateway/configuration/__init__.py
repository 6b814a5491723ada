"""gateway.toml: its sections, their keys, and how they are read."""
