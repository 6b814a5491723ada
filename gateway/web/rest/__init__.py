"""Parts of the REST interface, one file each, under /api/v1."""
