"""What the verbs do their work with: jobs, deliveries, and what is known of a series on its way."""
