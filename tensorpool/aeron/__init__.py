"""The only package that imports the Aeron binding; another binding would change nothing else."""
