import os

# By default, waiting OpenMP threads spin, and so take the cores that other processes of the tests need. OpenMP reads
# this when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
