"""Augmentation: from a policy string to float32 pixels, alike in NumPy, JAX and TensorFlow."""
