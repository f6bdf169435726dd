"""For speed: whitening stem, pooling blocks 1-1-1 of 64/192/256 channels, 2,489,354 parameters.

python -m resnet_flax.main --config=configs/speed94.py         (45,000 to train, 5,000 held out)
python -m resnet_flax.main --config=configs/speed94.py:full    (all 50,000, the last epoch)
python -m benchmarks.speed --targets=94                        (the seconds, over several seeds)

Meant for 94.0 % of CIFAR-10's test images in 2 seconds of one H200, without
test-time augmentation; not yet measured on a GPU. What single ideas are worth in
a small copy of it is measured by benchmarks.speed_ablation: whitening, pooling
blocks, Muon, the learning rate of biases and GELU pay there; the initialisation,
label smoothing and alternating flips show nothing, and wait for a GPU.
"""

from resnet_flax.config import speed_recipe


def get_config(arg: str = ""):
    config = speed_recipe("speed94", arg, epochs=10)
    config.data.policy = "crop(2,reflect)|flip(alternating)|normalize(cifar10)"
    return config
