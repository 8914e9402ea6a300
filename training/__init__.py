"""The command-line programs, thin: `python -m training.NAME` or `vgssl NAME`."""
