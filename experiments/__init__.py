"""The experiments: one folder per topic, each script run as `python -m experiments.<topic>.<script> [preset]`."""
