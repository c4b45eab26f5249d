"""nginx before TorchServe: TLS, API keys, limits, retries."""
