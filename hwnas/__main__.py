"""`python -m hwnas`."""

from hwnas.cli.app import main

main()
