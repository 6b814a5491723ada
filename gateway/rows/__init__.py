"""The rows of the database, one file for each part of the house that has some."""
