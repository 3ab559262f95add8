"""What the scripts share: the command line, settings, the network under evaluation, pieces of reports."""
