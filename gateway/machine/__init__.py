"""What the machine gives: disks, folders, locks of the living, TLS, a server of HTTP."""
