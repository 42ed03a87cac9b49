"""What every experiment starts from: all keys, their defaults and meaning.

A config is plain Python without JAX. Any key can be overridden on the command
line: `--config.train.num_steps=500`.
"""

import ml_collections

# Every kind of signal, for whom wants the whole membership suite.
ALL_KINDS = (
  'loss', 'secmi', 'pia', 'pian', 'pfami', 'sima', 'rediffuse', 'gsa',
)  # fmt: skip


def parse_arg(arg: str | None, **defaults):
  """Reads the part behind the colon of `--config=configs/x.py:a,b=3`.

  Args:
    arg: comma-separated switches (`a` means `a=True`) and `name=value`.
    **defaults: every known name; a value is read as its default's type.

  Returns:
    ConfigDict of the defaults, updated.

  Raises:
    ValueError: for an unknown name.
  """
  options = ml_collections.ConfigDict(defaults)
  for item in filter(None, (arg or '').split(',')):
    name, _, value = item.partition('=')
    if name not in options:
      known = ', '.join(sorted(options)) or 'none'
      raise ValueError(f'config argument {name!r} is unknown; known: {known}')
    kind = type(options[name])
    if kind is bool:
      options[name] = value.lower() in ('', '1', 'true')
    else:
      options[name] = kind(value)
  return options


def get_defaults() -> ml_collections.ConfigDict:
  """Defaults of every key."""
  c = ml_collections.ConfigDict()
  c.name = ''
  c.seed = 0
  # These two may grow in a run folder. Everything else is fixed there, but for
  # what changes no result (audit.FREE).
  c.num_models = 8
  c.num_samples = 2048  # of each model
  # How training sets are drawn: paired | independent (see data/splits.py).
  c.split = 'paired'
  # One setting for training, Strong LiRA and extraction: mirror images.
  c.flip = False

  c.data = ml_collections.ConfigDict()
  # digits | cifar10 | fashion_mnist | npz | npy | image_folder | array_record
  # | tfds
  c.data.name = 'digits'
  c.data.path = ''  # file or folder
  c.data.num_examples = 0  # 0: all; members and non-members together
  # Images that lie on every device; a larger set is streamed from the host.
  c.data.device_megabytes = 2048
  # Of decoded files (image_folder, array_record).
  c.data.image_size = 32
  c.data.channels = 3  # 1 | 3
  c.data.skip_broken = False  # leave out what cannot be read, and list it
  c.data.tfds_name = ''  # such as cifar10:3.0.2, prepared as array_record
  c.data.split = 'train'  # of tfds

  # Names and meaning of diffusers' UNet2DModel.
  c.model = ml_collections.ConfigDict()
  c.model.block_out_channels = (128, 256, 256, 256)
  c.model.layers_per_block = 2
  c.model.down_block_types = (
    'DownBlock2D', 'AttnDownBlock2D', 'DownBlock2D', 'DownBlock2D',
  )  # fmt: skip
  c.model.up_block_types = (
    'UpBlock2D', 'UpBlock2D', 'AttnUpBlock2D', 'UpBlock2D',
  )  # fmt: skip
  c.model.add_attention = True
  c.model.attention_head_dim = 8  # 0: one head
  c.model.attn_norm_num_groups = 0  # of the middle attention; 0: by default
  c.model.act_fn = 'silu'  # silu | relu | gelu | mish
  c.model.mid_block_scale_factor = 1.0
  c.model.downsample_type = 'conv'  # of attention levels: conv | resnet
  c.model.upsample_type = 'conv'
  c.model.norm_num_groups = 32
  c.model.norm_eps = 1e-5
  c.model.dropout = 0.0
  c.model.downsample_padding = 1
  c.model.flip_sin_to_cos = True
  c.model.freq_shift = 0.0
  c.model.resnet_time_scale_shift = 'default'  # default | scale_shift
  c.model.class_conditional = False
  # Twice the output channels: noise and the variance of a DDPM step, trained
  # by the hybrid loss (diffusion/losses.py).
  c.model.learned_variance = False
  c.model.init_from = (
    ''  # a diffusers folder whose weights training starts from
  )
  c.model.dtype = 'float32'  # of the compute: float32 | bfloat16

  # Names and meaning of diffusers' scheduler config.
  c.diffusion = ml_collections.ConfigDict()
  c.diffusion.beta_schedule = 'linear'
  c.diffusion.num_train_timesteps = 1000
  c.diffusion.beta_start = 1e-4
  c.diffusion.beta_end = 0.02
  c.diffusion.prediction_type = 'epsilon'

  c.train = ml_collections.ConfigDict()
  c.train.num_steps = 800_000
  c.train.batch_size = 128
  c.train.learning_rate = 2e-4
  c.train.warmup_steps = 5000
  c.train.decay = 'constant'  # of the learning rate: constant | cosine
  c.train.weight_decay = 0.0
  c.train.clip_norm = 1.0  # global norm of the gradient; 0: no clipping
  c.train.ema_decay = 0.9999
  c.train.weighting = 'uniform'  # see diffusion/losses.py
  c.train.label_dropout = 0.0  # share of null labels, for guidance
  c.train.models_per_block = 8  # models that share a checkpoint
  c.train.log_every = 100
  c.train.checkpoint_every = 10_000
  c.train.max_to_keep = 2  # newest checkpoints; 0: all
  c.train.devices_per_model = 0  # that share a model's batches; 0 chooses
  c.train.profile_steps = 0  # traced into profile/ after the first few; 0: none

  c.sample = ml_collections.ConfigDict()
  c.sample.sampler = 'ddim'  # ddpm | ddim
  c.sample.num_steps = 50
  c.sample.timestep_spacing = 'leading'  # leading | linspace | trailing
  c.sample.eta = 0.0
  c.sample.variance = 'small'  # of ddpm: small | large | learned_range
  c.sample.clip_sample = True
  c.sample.guidance_scale = 1.0
  # Labels that images are drawn with, in turn; (): all. Some may come twice.
  c.sample.classes = ()
  c.sample.batch_size = 512  # of one model, over its devices
  c.sample.block_size = 1024  # images a file

  c.signals = ml_collections.ConfigDict()
  # Signals (attacks/membership/signals/): loss | secmi | pia | pian | pfami
  # | sima | rediffuse | gsa. The loss is always there.
  c.signals.kinds = ('loss',)
  c.signals.timesteps = (10, 25, 50, 75, 100, 150, 200, 300, 400, 600, 800)
  c.signals.draws = 20  # noise draws of Strong LiRA; the first alone is LiRA
  c.signals.stride = 10  # timesteps a DDIM step of SecMI
  # SecMI, PFAMI and ReDiffuse beside it at the settings of their authors' code,
  # as secmi_published, pfami_published and rediffuse_published.
  c.signals.published = False
  # Of ReDiffuse: how many, and timesteps a DDIM step.
  c.signals.variations = 10
  c.signals.variation_stride = 50
  c.signals.batch_size = 512
  c.signals.block_size = 4096  # images a file

  c.membership = ml_collections.ConfigDict()
  c.membership.timestep = 100  # the paper's, beside the chosen one
  c.membership.transform = 'none'  # none | log
  c.membership.variance = 'pooled'  # whose scores are written out
  c.membership.num_resamples = 1000

  c.quality = ml_collections.ConfigDict()
  # Inception-v3's weights for FID (interop/inception.py); '': FD-PCA alone.
  c.quality.inception = ''

  c.extraction = ml_collections.ConfigDict()
  c.extraction.target_precision = 0.95  # kept on the other models
  # RMSE; nearer images are one: on one side of every split, and counted once.
  c.extraction.duplicate_distance = 0.02
  # The n nearest of the threshold: distinct | images (the paper's rule to the
  # letter, by which an image with n copies cannot be hit).
  c.extraction.neighbours = 'distinct'
  # Training images as near as this to one that was given away are its copies,
  # moved by up to so many pixels (attacks/extraction/eidetic.py).
  c.extraction.eidetic_distance = 0.1
  c.extraction.eidetic_shift = 0
  # A finished run on the same images: what do both give away?
  c.extraction.other_run = ''

  # Inpainting (attacks/inpainting/attack.py); the paper has 100 images.
  c.inpainting = ml_collections.ConfigDict()
  c.inpainting.num_images = 0  # of each pair of models; 0: left out
  c.inpainting.masks = ('left',)  # what is hidden: left | centre | random
  c.inpainting.draws = 5000
  c.inpainting.kept = 10
  c.inpainting.timestep = 100  # of the losses that judge
  c.inpainting.loss_draws = 20
  # RePaint's (diffusion/repaint.py); fewer steps, eta = 0 and jump_n_sample = 1
  # are as fast as DDIM.
  c.inpainting.num_steps = 250
  c.inpainting.jump_length = 10
  c.inpainting.jump_n_sample = 10
  c.inpainting.eta = 1.0
  c.inpainting.batch_size = 512

  # Surrogate guidance, SIDE (attacks/side/attack.py).
  c.guidance = ml_collections.ConfigDict()
  c.guidance.num_samples = 0  # guided, of each model; 0: left out
  c.guidance.num_learned = 1024  # plain ones that a surrogate learns from
  c.guidance.num_clusters = 100
  c.guidance.cohesion = 0.5
  c.guidance.scale = 5.0
  c.guidance.channels = (32, 64)  # of the surrogate
  c.guidance.num_steps = 2000  # that a surrogate is trained
  c.guidance.batch_size = 128
  c.guidance.learning_rate = 1e-3

  # Canaries (attacks/canaries/exposure.py), in models of their own.
  c.canaries = ml_collections.ConfigDict()
  c.canaries.num_models = 0  # repetitions; 0: left out
  c.canaries.counts = (1, 2, 4, 8, 16, 32, 64)  # copies
  c.canaries.per_count = 8
  c.canaries.coins = 64  # trained on once or not at all: twice as many in all
  c.canaries.pool = 1024  # to rank the others in
  c.canaries.timestep = 100
  c.canaries.draws = 20
  # A key with a typing error is refused, not added.
  return c.lock()


def add_every_attack(c: ml_collections.ConfigDict) -> None:
  """The paper's inpainting and canaries, and SIDE's budget, at full scale."""
  c.signals.kinds = ALL_KINDS
  c.signals.published = True
  c.inpainting.num_images = 13  # of each of 8 pairs: the paper's 100
  c.guidance.num_learned = 2**14
  c.guidance.num_samples = 2**14
  c.canaries.num_models = 3


def shrink_attacks(c: ml_collections.ConfigDict) -> None:
  """The same for minutes; what is left out stays so."""
  if c.inpainting.num_images:
    c.inpainting.num_images = 4
  c.inpainting.draws = 16
  c.inpainting.kept = 4
  c.inpainting.num_steps = 20
  c.inpainting.jump_length = 4
  c.inpainting.jump_n_sample = 3
  c.inpainting.loss_draws = 4
  c.inpainting.batch_size = 64
  c.guidance.num_learned = c.sample.block_size
  if c.guidance.num_samples:
    c.guidance.num_samples = c.sample.block_size
    c.num_samples = max(c.num_samples, 2 * c.sample.block_size)
  c.guidance.num_clusters = 16
  c.guidance.num_steps = 300
  if c.canaries.num_models:
    c.canaries.num_models = 2
  c.canaries.per_count = 2
  c.canaries.coins = 16
  c.canaries.pool = 128
  c.canaries.draws = 4


def shrink(c: ml_collections.ConfigDict) -> None:
  """The same experiment for minutes on two CPU cores: 6 tiny nets, 128 images.

  Levels, attention, sampler, schedule and losses stay; sizes and counts do not.
  """
  levels = len(c.model.block_out_channels)
  c.num_models = 6
  c.num_samples = 128
  c.split = 'paired'  # independent halves of 6 models leave gaps
  c.data.num_examples = 128
  c.model.block_out_channels = (16,) + (32,) * (levels - 1)
  c.model.layers_per_block = 1
  c.model.attention_head_dim = min(c.model.attention_head_dim, 16)
  if c.model.attn_norm_num_groups:
    c.model.attn_norm_num_groups = 8
  c.model.norm_num_groups = 8
  c.model.dtype = 'float32'
  c.train.num_steps = 400
  c.train.batch_size = 32
  c.train.learning_rate = 1e-3
  c.train.warmup_steps = min(c.train.warmup_steps, 50)
  c.train.ema_decay = 0.99
  c.train.models_per_block = 6
  c.train.log_every = 20
  c.train.checkpoint_every = 200
  c.sample.num_steps = 20
  c.sample.batch_size = 64
  c.sample.block_size = 128
  c.signals.timesteps = tuple(c.signals.timesteps)[2:7:2]
  c.membership.timestep = c.signals.timesteps[1]
  c.signals.draws = 2
  c.signals.batch_size = 64
  c.signals.block_size = 128
  c.membership.num_resamples = 200
  shrink_attacks(c)
