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

from resnet_flax.config import recipe


def get_config(arg: str = ""):
    config, _ = recipe("speed94", arg)
    config.data.policy = "crop(2,reflect)|flip(alternating)|normalize(cifar10)"
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
    config.train.epochs = 10
    config.train.batch_size = 1000
    config.train.label_smoothing = 0.2
    config.train.checkpoint_every = 10
    return config
