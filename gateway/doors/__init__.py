"""The door: who may come in, and the journal that holds what was acknowledged."""
