"""The driver process: leases, epochs, regions, announcements; the registry's one writer."""
