"""The process tree of a host: start order, readiness, restarts, drain, signals."""
