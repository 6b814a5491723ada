"""A gateway that serves: its stages and lanes, its ingest processes, and what it does by itself now and then."""
