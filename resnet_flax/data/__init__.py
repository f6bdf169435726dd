"""Data: datasets as uint8 arrays, augmentation policies, and the feeds that make batches of them."""

import os

# TensorFlow reads these when it is imported; without them it logs its startup in the output of every run.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
