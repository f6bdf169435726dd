"""Report 003: ResNet-18 of 42/84/168/336 channels with dropout, 4,815,940 parameters.

python -m resnet_flax.main --config=configs/resnet18_w42.py        (45,000 to train, 5,000 to choose the epoch by)
python -m resnet_flax.main --config=configs/resnet18_w42.py:full   (all 50,000, the last epoch)

The report: 93.02 % test accuracy after 80 epochs of AdamW with batch 64, an epoch being the augmented and the plain
training set shuffled together. Where it is silent:
- AdamW's learning rate 0.001 and weight decay 0.01 are PyTorch's defaults.
- The schedule is plotted but not named: a cosine to 0, which ends where training ends.
- Strengths of the augmentation: jitter 0.2 and hue 0.1, mild as in the other reports; translation "slight", 10 %.
"""

from resnet_flax.config import recipe


def get_config(arg: str = ""):
    config, _ = recipe("resnet18_w42", arg)
    config.data.policy = "rotate(10)|flip|crop(4)|color_jitter(0.2,0.2,0.2,0.1)|translate(0.1)|normalize(cifar10)"
    config.data.concat_original = True
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.weight_decay = 1e-2
    config.schedule.name = "cosine"
    config.train.epochs = 80
    config.train.batch_size = 64
    return config
