"""The service from Python, and from the command line."""
