"""Starting, watching and stopping a TorchServe that serves the archive."""
