"""Fuzzing: one target a class of input, run by `make fuzz` and, seeded, by the test suite."""
