"""What the service is measured against, each as its own documentation or a good engineer would set it up."""
