"""The tools around the model: serving, the gateway, evaluation, benchmarks and chaos tests."""
