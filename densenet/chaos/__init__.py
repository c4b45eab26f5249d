"""What clients see when something fails: one fault after another under load, each answer held against the known one."""
