"""Studies that can be run again: each folder holds the command, its results and what they say."""
