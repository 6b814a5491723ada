"""The clinical AI gateway: scanners and PACS send studies, Triton models read them, results go back, and the trail proves it."""

__version__ = "0.1.0"
