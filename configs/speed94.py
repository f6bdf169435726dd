"""For speed: whitening stem, pooling blocks 1-1-1 of 64/192/256 channels, 2,489,378 parameters.

python -m resnet_flax.main --config=configs/speed94.py         (trains on 45,000, validates on 5,000)
python -m resnet_flax.main --config=configs/speed94.py:full    (trains on all 50,000, last epoch)
python -m benchmarks.speed --targets=94                        (measures the seconds, over several seeds)

The goal is 94.0 % test accuracy on CIFAR-10 in 2 seconds on one H200, without test-time augmentation.
benchmarks.speed_ablation measures single ideas in a small version, with two seeds so far: without whitening, pooling
blocks or Muon, accuracy falls by 4 to 6 points, with one learning rate for all parameters by 2; the other differences
are about 1 point or less, and the intervals of two seeds are wide (docs/results.md).

This project: speed94:full 93.33 ± 0.09 %, 94.19 ± 0.11 % with six views (n = 5, 2 cores of AMD EPYC with AVX-512 and
bfloat16 or 2 cores of AMD EPYC with half-rate AVX-512 and bfloat16).
"""

from resnet_flax.config import speed_recipe


def get_config(arg: str = ""):
    config = speed_recipe("speed94", arg, epochs=10)
    config.data.policy = "crop(2,reflect)|flip(alternating)|normalize(cifar10)"
    return config
