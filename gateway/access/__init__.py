"""Who may use the console and the REST interface, and how they show who they are."""
