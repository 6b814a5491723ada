"""The audit trail: what happened, chained and signed, and as the messages that DICOM has for it."""
