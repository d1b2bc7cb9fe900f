"""What one uses before and after training: the core does not import it."""
