"""The training step and everything around it; knows a batch as a dict of arrays, never a file of videos."""
