"""The client library: leases kept in the background, frames written and read in place."""
