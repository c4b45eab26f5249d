"""The tools around the model: serving, the gateway, evaluation, benchmarks and chaos tests."""

__version__ = "1.0.0"
