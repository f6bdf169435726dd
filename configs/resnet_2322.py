"""Report 001: basic blocks 2-3-2-2 of 64/128/192/256 channels with dropout, 4,479,946 parameters.

python -m resnet_flax.main --config=configs/resnet_2322.py         (trains on 45,000, selects the epoch on 5,000)
python -m resnet_flax.main --config=configs/resnet_2322.py:full    (trains on all 50,000, last epoch)
python -m resnet_flax.main --config=configs/resnet_2322.py:fast    (10 epochs of Muon on all 50,000, last epoch)

The report: 93.31 % test accuracy after 65 epochs of SGD. Its code steps OneCycle once per epoch with PyTorch's
defaults: learning rate from 0.004 (0.01 in the text) to 0.1 and down again, momentum from 0.95 to 0.85 and back.

This project: not yet measured.
"""

from resnet_flax.config import TRAININGS, fast, recipe


def get_config(arg: str = ""):
    config, (training,) = recipe("resnet_2322", arg, TRAININGS)
    if training == "fast":
        return fast(config)
    config.data.policy = "crop(4)|flip|normalize(half)"
    config.optimizer.learning_rate = 0.1
    config.schedule.name = "onecycle"
    config.train.epochs = 65
    config.train.batch_size = 32
    return config
