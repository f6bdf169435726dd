"""Every test runs on the CPU, offline, with a cache folder of its own."""

import os
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="resnet_flax-tests-")
os.environ.pop("TFDS_DATA_DIR", None)
