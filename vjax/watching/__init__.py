"""What happens when in a video: the scores of windows -> segments, and a picture of them."""
