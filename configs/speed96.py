"""For speed: whitening stem, pooling blocks 1-1-1 of 128/256/352 channels, 4,846,346 parameters.

python -m resnet_flax.main --config=configs/speed96.py         (45,000 to train, 5,000 held out)
python -m resnet_flax.main --config=configs/speed96.py:full    (all 50,000, the last epoch)
python -m benchmarks.speed --targets=96                        (the seconds, over several seeds)

Meant for 96.0 % of CIFAR-10's test images in 30 seconds of one H200, without
test-time augmentation; not yet measured on a GPU.
"""

from resnet_flax.config import recipe


def get_config(arg: str = ""):
    config, _ = recipe("speed96", arg)
    config.data.policy = "crop(4,reflect)|flip(alternating)|normalize(cifar10)|cutout(12)"
    config.model.kernel_init = "dirac"
    config.optimizer.name = "muon"
    config.optimizer.learning_rate = 0.1
    config.optimizer.momentum = 0.85
    config.optimizer.nesterov = True
    config.optimizer.bias_lr_factor = 8.0
    config.schedule.name = "onecycle"
    config.schedule.per = "step"
    config.schedule.anneal = "linear"
    config.schedule.rise = 0.23
    config.schedule.start_divisor = 5.0
    config.schedule.end_divisor = 1e3
    config.schedule.cycle_momentum = False
    config.train.epochs = 60
    config.train.batch_size = 1000
    config.train.label_smoothing = 0.2
    config.train.checkpoint_every = 60
    return config
