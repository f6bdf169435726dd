"""Datasets: from files, folders and TensorFlow Datasets to uint8 arrays."""
