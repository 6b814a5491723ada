"""What is asked of other systems, and fetched from them: priors, series of archives, counts, orders."""
