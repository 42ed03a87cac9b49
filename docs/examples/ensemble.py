"""Train and attack an ensemble from Python, and read its tables.

    launch/local.sh python docs/examples/ensemble.py FOLDER

In a checkout: configs come from configs/.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

import pandas as pd  # noqa: E402

from configs import digits  # noqa: E402
from jaxdiff.pipeline import stages  # noqa: E402

config = digits.get_config()
config.num_models, config.num_samples = 4, 64
config.data.num_examples = 64
config.model.block_out_channels = (16, 16)
config.train.num_steps = 20
config.train.log_every = config.train.checkpoint_every = 20
config.sample.batch_size = config.sample.block_size = 64
config.sample.num_steps = 10
config.signals.timesteps, config.signals.draws = (50, 100), 1
run = stages.run_stages(config, sys.argv[1])
table = pd.read_csv(run.path / 'membership' / 'comparison.csv')
print(table[['attack', 'timestep_rule', 'auc', 'auc_low', 'auc_high']])
print('report:', run.report)
