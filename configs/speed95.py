"""For speed: the network of configs/speed96.py, trained for 16 epochs instead of 60; 4,846,370 parameters.

python -m resnet_flax.main --config=configs/speed95.py         (trains on 45,000, validates on 5,000)
python -m resnet_flax.main --config=configs/speed95.py:full    (trains on all 50,000, last epoch)
python -m benchmarks.speed --targets=95                        (measures the seconds, over several seeds)

The goal is 95.0 % test accuracy on CIFAR-10, without test-time augmentation.

This project: not yet measured.
"""

from resnet_flax.config import speed_recipe


def get_config(arg: str = ""):
    config = speed_recipe("speed96", arg, epochs=16)
    config.data.policy = "crop(4,reflect)|flip(alternating)|normalize(cifar10)|cutout(12)"
    return config
