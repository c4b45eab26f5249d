"""How good the running service is: labelled images → its answers → metrics → report, each step a module."""
