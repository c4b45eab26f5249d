"""Start, observe and stop a TorchServe that serves the archive."""
