"""Chaos tests: inject one fault after another under load and compare every response with the expected one."""
