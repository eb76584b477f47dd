"""``python -m calibzarr``."""

from calibzarr.cli import main

main()
