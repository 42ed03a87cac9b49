"""What helps against memorising? Each defence under one protocol, one table.

    launch/local.sh python -m launch.audit \
      --config=configs/defences.py --workdir=runs/defences

trains the unchanged models and, with the same seed, each defence: every row's
shadow models are trained under the same defence, or the attack would look for
another model than it finds. sweep.html has one row each, with membership from
the loss, from samples alone, extraction, quality, cost, and says in words what
is surely less, more, or cannot be told apart.

On real handwritten digits, 8 class-conditional nets a row. It was not run;
`:runlocal` has 6 small ones: 45 minutes on two CPU cores beside other work.
"""

from configs import common, digits

# launch.audit audits every point.
AUDIT_ALL = True


def get_config(arg: str | None = None):
  """The models that nothing defends; `runlocal` is the same for minutes."""
  options = common.parse_arg(arg, runlocal=False)
  c = digits.get_config()
  c.name = 'defences'
  c.model.class_conditional = True
  c.train.num_steps = 2000
  if options.runlocal:
    c.num_models = 6
    c.num_samples = 1024
    c.data.num_examples = 128
    c.train.num_steps = 1200
    c.train.batch_size = 32
    c.train.checkpoint_every = 400
    c.sample.num_steps = 20
    c.signals.timesteps = (25, 50, 100, 200, 400)
    c.signals.draws = 4
    c.membership.num_resamples = 200
  return c


def sweep(arg: str | None = None) -> list[dict]:
  """(knob, value, run, overrides) of every defence."""
  c = get_config(arg)
  steps, examples = c.train.num_steps, c.data.num_examples
  rows = {
    'none': ('base', {}),
    'twice the images': ('data', {'data.num_examples': 2 * examples}),
    'dropout 0.3': ('dropout', {'model.dropout': 0.3}),
    'weight decay 0.3': ('decay', {'train.weight_decay': 0.3}),
    'label noise 0.3': ('labels', {'train.label_noise': 0.3}),
    'ambient noise above t = 200': (
      'ambient', {'train.ambient_timestep': 200},
    ),
    'DP-SGD, epsilon 10': (
      'private',
      {
        'private.epsilon': 10.0,
        'private.warm_releases': 4, 'private.warm_noise': 2.5,
        'private.warm_share': 0.5, 'private.warm_steps': steps // 8,
        'train.num_steps': steps // 4,
        'train.batch_size': c.train.batch_size // 2,
        'train.clip_norm': 0.0, 'train.warmup_steps': 50,
        'train.checkpoint_every': 50, 'train.log_every': 25,
      },
    ),
  }  # fmt: skip
  points: list[dict] = [
    {'knob': 'defence', 'value': value, 'run': run, 'overrides': overrides}
    for value, (run, overrides) in rows.items()
  ]
  # When to stop is chosen on models of another seed, other halves.
  points.insert(
    1,
    {
      'knob': 'defence', 'value': 'early stopping', 'run': 'early',
      'overrides': {},
      'pilot': {
        'overrides': {
          'seed': c.seed + 1, 'num_models': 4,
          'train.checkpoint_every': steps // 8,
        },
        'metric': 'share extracted', 'at_most': 0.01,
      },
    },
  )  # fmt: skip
  return points
