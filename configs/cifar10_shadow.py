"""CIFAR-10, class-conditional shadow models: membership (section 5.2).

    launch/local.sh python -m launch.audit \
      --config=configs/cifar10_shadow.py --workdir=runs/cifar10_shadow \
      --config.data.path=cifar-10-binary.tar.gz

trains 16 models, each on a half of the 50,000 training images; `:num=256` as
many as you like. It was not run; `--dry_run` counts 30 hours of one H100 at
30 % of its peak. The paper reports LiRA at 71 % TPR at 1 % FPR (AUC 0.982),
with 20 noise draws and mirror images 0.997.

    ... --config=configs/cifar10_shadow.py:runlocal

is the same on 128 images with 6 tiny nets: minutes on 2 cores (not timed).
`sweep()` repeats it with three seeds (launch.sweep).
"""

from configs import cifar10, common


def get_config(arg: str | None = None):
  """`num=K` models; `runlocal` shrinks the study to minutes on a laptop."""
  options = common.parse_arg(arg, num=16, runlocal=False)
  c = cifar10.get_config()
  c.name = 'cifar10_shadow'
  c.num_models = options.num
  c.num_samples = 1024
  c.split = 'paired'
  c.model.class_conditional = True
  c.train.num_steps = 400_000
  c.train.models_per_block = 16
  if options.runlocal:
    common.shrink(c)
  return c


def sweep(arg: str | None = None) -> list[dict]:
  """One run a seed: three repetitions of the whole study, as plain dicts."""
  del arg
  return [
    {
      'knob': 'seed',
      'value': str(seed),
      'run': f'seed-{seed}',
      'overrides': {'seed': seed},
    }
    for seed in range(3)
  ]
