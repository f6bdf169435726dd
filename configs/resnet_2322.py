"""Report 001: basic blocks 2-3-2-2 of 64/128/192/256 channels with dropout, 4,479,946 parameters.

python -m resnet_flax.main --config=configs/resnet_2322.py         (45,000 to train, 5,000 to choose the epoch by)
python -m resnet_flax.main --config=configs/resnet_2322.py:full    (all 50,000, the last epoch)

The report: 93.31 % test accuracy after 65 epochs of SGD. Its code steps OneCycle once an epoch with PyTorch's
defaults: from 0.004 (the text says 0.01) to 0.1 and down, momentum 0.95 to 0.85 and back.
"""

from resnet_flax.config import recipe


def get_config(arg: str = ""):
    config, _ = recipe("resnet_2322", arg)
    config.data.policy = "crop(4)|flip|normalize(half)"
    config.optimizer.learning_rate = 0.1
    config.schedule.name = "onecycle"
    config.train.epochs = 65
    config.train.batch_size = 32
    return config
