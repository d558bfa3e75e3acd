"""The supervisor: answers `ConsumerHello`, hands out per-consumer streams, watches every stream.

It only listens and advises (Wire §10.5): while it is down, frames flow on as they do.
"""
