"""tensorpool beside what a Python user could pick instead, in one run on one machine."""
