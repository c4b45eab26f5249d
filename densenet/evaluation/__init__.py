"""Evaluate the running service: labelled images → answers → metrics → report, with one module per step."""
