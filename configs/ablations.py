"""What makes a model memorise: one knob at a time (paper, sections 5.2.3, 8).

    launch/local.sh python -m launch.sweep \
      --config=configs/ablations.py --workdir=runs/ablations \
      --config.data.path=cifar-10-binary.tar.gz

changes size (27 to 125 M parameters), schedule, number of timesteps, mirror
images, class labels, batch size and training length of `cifar10_shadow.py`, a
run each. It was not run: 16 runs of that config's time.

    launch/local.sh python -m launch.sweep \
      --config=configs/ablations.py:runlocal --workdir=runs/ablations

does it with 6 tiny nets on 64 handwritten digits: 20 minutes on 2 busy CPU
cores. Either way sweep.html shows extraction and membership against each knob,
with intervals; expect more of both with longer training and larger nets.
"""

from configs import cifar10_shadow, common, digits


def get_config(arg: str | None = None):
  """The unchanged run; `runlocal` is on digits."""
  options = common.parse_arg(arg, runlocal=False)
  if options.runlocal:
    c = digits.get_config()
    c.num_models = 6
    c.num_samples = 512
    c.data.num_examples = 64
    c.train.num_steps = 800
    c.train.batch_size = 32
    c.train.checkpoint_every = 400
    c.sample.num_steps = 20
    c.sample.block_size = 512
    c.signals.timesteps = (25, 50, 100, 200, 400)
    c.signals.draws = 4
    c.membership.num_resamples = 200
  else:
    c = cifar10_shadow.get_config()
    c.num_samples = 2**14
    c.model.norm_num_groups = 16
    # Timesteps that the shortest schedule has too.
    c.signals.timesteps = (25, 50, 100, 150, 200, 300, 400)
  c.name = 'ablations'
  return c


def sweep(arg: str | None = None) -> list[dict]:
  """(knob, value, run, overrides) of every point; knobs share run `base`."""
  local = common.parse_arg(arg, runlocal=False).runlocal
  if local:
    sizes = {'0.04 M': (8, 16), '0.16 M': None, '0.37 M': (24, 48)}
    steps = {'200': 200, '400': 400, '800': None, '1600': 1600}
    batches = {'16': 16, '32': None, '64': 64}
    flip, conditional = {'off': None, 'on': True}, {'off': None, 'on': True}
  else:
    sizes = {
      f'{millions} M': None if width == 128 else (width, *(2 * width,) * 3)
      for millions, width in ((27, 112), (36, 128), (68, 176), (125, 240))
    }
    steps = {'100,000': 100_000, '200,000': 200_000, '400,000': None}
    batches = {'64': 64, '128': None, '256': 256}
    flip, conditional = {'off': False, 'on': None}, {'off': False, 'on': None}
  knobs = {
    'parameters': ('model.block_out_channels', sizes),
    'steps of training': ('train.num_steps', steps),
    'batch size': ('train.batch_size', batches),
    'schedule': (
      'diffusion.beta_schedule',
      {'linear': None, 'cosine': 'squaredcos_cap_v2'},
    ),
    'timesteps T': (
      'diffusion.num_train_timesteps', {'500': 500, '1000': None, '2000': 2000},
    ),
    'mirror images': ('flip', flip),
    'class labels': ('model.class_conditional', conditional),
  }  # fmt: skip
  return [
    {
      'knob': knob,
      'value': value,
      'run': 'base'
      if setting is None
      else f'{key.rsplit(".", 1)[-1]}-{value}'.replace(' ', '').replace(
        ',', ''
      ),
      'overrides': {} if setting is None else {key: setting},
    }
    for knob, (key, settings) in knobs.items()
    for value, setting in settings.items()
  ]
