"""Windows of blocks as one operation: exact gradients in less time and memory than the plain graph."""
