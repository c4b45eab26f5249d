"""The way of an image through the service, one module a step: read, decode, transform, score, rank, reply."""
