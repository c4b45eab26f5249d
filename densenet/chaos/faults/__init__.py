"""The faults. Each is a function from a scenario to a finding."""
