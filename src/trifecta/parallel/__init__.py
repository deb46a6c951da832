"""Training on several processes: blocks on different ones, images on different ones, or both."""
