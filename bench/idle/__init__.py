"""What a host costs that nobody uses, and how soon it is ready."""
