"""Data: sources of uint8 arrays, augmentation policies, and the feeds that make batches of them."""
