"""Who is told what happens: people, collectors of audit messages and of traces, programs that read metrics."""
