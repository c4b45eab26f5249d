"""The faults, each a function from the scene to what was found."""
