"""The control plane under load: attach, detach, keepalive, expiry, and new epochs."""
