"""Data: sources of uint8 arrays, augmentation policies, and the feeds that make batches of them."""

import os

# TensorFlow reads these when it is imported, and would otherwise narrate its start into every run's output.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
