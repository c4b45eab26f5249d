"""The gateway: nginx in front of TorchServe, for TLS, API keys, limits and retries."""
