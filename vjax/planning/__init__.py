"""What a training step will need on devices that are not there, as their compiler sees it."""
