"""For speed: whitening stem, pooling blocks 1-1-1 of 128/256/352 channels, 4,846,370 parameters.

python -m resnet_flax.main --config=configs/speed96.py         (trains on 45,000, validates on 5,000)
python -m resnet_flax.main --config=configs/speed96.py:full    (trains on all 50,000, last epoch)
python -m benchmarks.speed --targets=96                        (measures the seconds, over several seeds)

The goal is 96.0 % test accuracy on CIFAR-10 in 30 seconds on one H200, without test-time augmentation.

This project: not yet measured.
"""

from resnet_flax.config import speed_recipe


def get_config(arg: str = ""):
    config = speed_recipe("speed96", arg, epochs=60)
    config.data.policy = "crop(4,reflect)|flip(alternating)|normalize(cifar10)|cutout(12)"
    return config
