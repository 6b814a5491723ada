"""DICOM as bytes and data sets: what the standard says of them, and nothing of a gateway. No I/O."""
