"""What the commands of the command line do; cli/ says what they are asked."""
