"""Shared-memory regions: names, layout, validation, mapping and the seqlock on a slot."""
