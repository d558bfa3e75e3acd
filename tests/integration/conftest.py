"""Fixtures of every integration test."""

from tests.integration.host import host

__all__ = ["host"]
