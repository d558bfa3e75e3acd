"""Whether this host is fit for a configuration: one module a subject, one function a rule."""
