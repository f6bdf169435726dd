"""For speed: whitening stem, pooling blocks 1-1-1 of 128/256/352 channels, 4,846,346 parameters.

python -m resnet_flax.main --config=configs/speed96.py         (45,000 to train, 5,000 held out)
python -m resnet_flax.main --config=configs/speed96.py:full    (all 50,000, the last epoch)
python -m benchmarks.speed --targets=96                        (the seconds, over several seeds)

Meant for 96.0 % of CIFAR-10's test images in 30 seconds of one H200, without
test-time augmentation; not yet measured on a GPU.
"""

from resnet_flax.config import speed_recipe


def get_config(arg: str = ""):
    config = speed_recipe("speed96", arg, epochs=60)
    config.data.policy = "crop(4,reflect)|flip(alternating)|normalize(cifar10)|cutout(12)"
    return config
