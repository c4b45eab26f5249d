"""python -m densenet: the command, where it is not installed."""

from densenet.cli import main

main()
