"""A tiny residual network on the handwritten digits of scikit-learn: the whole program in a minute or two.

python -m resnet_flax.main --config=configs/quickstart.py
"""

from resnet_flax.config import recipe


def get_config(arg: str = ""):
    config, _ = recipe("tiny", arg)
    config.data.name = "digits"
    config.data.policy = "crop(4)|normalize(half)"  # no flip: a mirrored 2 is not a digit
    config.schedule.name = "onecycle"
    config.schedule.per = "step"
    config.train.epochs = 20
    config.train.batch_size = 32
    return config
