"""Report 000: basic blocks 4-4-3 of 64/128/256 channels, 4,697,162 parameters.

python -m resnet_flax.main --config=configs/resnet_443.py          (trains on 45,000, selects the epoch on 5,000)
python -m resnet_flax.main --config=configs/resnet_443.py:full     (trains on all 50,000, last epoch)
python -m resnet_flax.main --config=configs/resnet_443.py:fast     (10 epochs of Muon on all 50,000, last epoch)

The report: 93.41 % test accuracy after 75 epochs of SGD. Its last milestone, 80, lies after the end and is omitted
here. The augmentation is that of its published code; the text gives neither the order nor the strengths.

This project: not yet measured.
"""

from resnet_flax.config import TRAININGS, fast, recipe


def get_config(arg: str = ""):
    config, (training,) = recipe("resnet_443", arg, TRAININGS)
    if training == "fast":
        return fast(config)
    config.data.policy = (
        "rotate(10)|color_jitter(0.1,0.1,0.1)|flip|sharpness(2,0.2)|crop(4)"
        "|normalize(0.4914,0.4822,0.4465,0.247,0.243,0.261)|random_erasing(0.2,0.02,0.1,value=1)"
    )
    config.optimizer.learning_rate = 0.1
    config.optimizer.weight_decay = 1e-4
    config.schedule.name = "multistep"
    config.schedule.milestones = (30, 40, 60)
    config.train.epochs = 75
    config.train.batch_size = 256
    return config
