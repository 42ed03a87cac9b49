"""Keys of an ensemble that the run trains itself: one table, hence so long."""

from jaxdiff.schema.key import Group, Key

GROUPS: dict[str, Group] = {
  '': (
    'The run',
    {
      'name': Key('', 'of the experiment, for the report'),
      'seed': Key(0, 'of everything that is drawn', 0, 2**31 - 1),
      'num_models': Key(8, 'models of the ensemble', 1, 2**16, grows='train'),
      'num_samples': Key(2048, 'of each model', 1, 2**40, grows='sample'),
      'split': Key(
        'paired',
        'how training sets are drawn: paired, independent or bernoulli '
        '(data/splits.py)',
      ),
      'flip': Key(
        False, 'mirror images, in training, Strong LiRA and extraction alike'
      ),
    },
  ),
  'data': (
    'The images',
    {
      'name': Key(
        'digits',
        'digits, cifar10, fashion_mnist, npz, npy, image_folder, array_record '
        'or tfds',
      ),
      'path': Key('', 'file or folder', free=True),
      'num_examples': Key(
        0, 'members and non-members together; 0 takes all', 0, 2**40
      ),
      'device_megabytes': Key(
        2048,
        'images that lie on every device; a larger set is streamed from the '
        'host',
        0,
        2**40,
        free=True,
      ),
      'image_size': Key(
        32, 'of decoded files (image_folder, array_record)', 1, 4096
      ),
      'downscale': Key(
        1, 'sides are divided by it: means of squares of pixels', 1, 256,
        late=True,
      ),
      'channels': Key(3, 'of decoded files, 1 or 3', 1, 3),
      'skip_broken': Key(False, 'leave out what cannot be read, and list it'),
      'tfds_name': Key('', 'such as cifar10:3.0.2, prepared as array_record'),
      'split': Key('train', 'of tfds'),
    },
  ),
  'model': (
    "The net; names and meaning of diffusers' UNet2DModel",
    {
      'block_out_channels': Key((128, 256, 256, 256), 'channels of each level'),
      'layers_per_block': Key(2, 'residual blocks of each level', 1, 64),
      'down_block_types': Key(
        ('DownBlock2D', 'AttnDownBlock2D', 'DownBlock2D', 'DownBlock2D'),
        'levels on the way down',
      ),
      'up_block_types': Key(
        ('UpBlock2D', 'UpBlock2D', 'AttnUpBlock2D', 'UpBlock2D'),
        'levels on the way up',
      ),
      'add_attention': Key(True, 'in the middle'),
      'attention_head_dim': Key(8, 'channels a head; 0 is one head', 0, 16384),
      'attn_norm_num_groups': Key(
        0, 'of the middle attention; 0 is norm_num_groups', 0, 16384
      ),
      'act_fn': Key('silu', 'silu, relu, gelu or mish'),
      'mid_block_scale_factor': Key(
        1.0, 'that the middle divides its residuals by', 1e-6, 1e6
      ),
      'downsample_type': Key('conv', 'of attention levels: conv or resnet'),
      'upsample_type': Key('conv', 'of attention levels: conv or resnet'),
      'norm_num_groups': Key(32, 'of the group norms', 1, 16384),
      'norm_eps': Key(1e-5, 'of the group norms', 1e-12, 1.0),
      'dropout': Key(0.0, 'within residual blocks', 0.0, 0.99),
      'downsample_padding': Key(1, '0 pads the right and lower edge', 0, 8),
      'flip_sin_to_cos': Key(True, 'order of the timestep embedding'),
      'freq_shift': Key(0.0, 'of the timestep embedding', -1e6, 1e6),
      'resnet_time_scale_shift': Key('default', 'default or scale_shift'),
      'class_conditional': Key(False, 'whether the net is told the label'),
      'learned_variance': Key(
        False,
        'twice the output channels: noise and the variance of a DDPM step, '
        'trained by the hybrid loss (diffusion/losses.py)',
      ),
      'init_from': Key(
        '', 'a diffusers folder whose weights training starts from', free=True
      ),
      'dtype': Key('float32', 'of the compute: float32 or bfloat16'),
    },
  ),
  'diffusion': (
    "The noise; names and meaning of diffusers' scheduler config",
    {
      'beta_schedule': Key(
        'linear', 'linear, scaled_linear or squaredcos_cap_v2'
      ),
      'num_train_timesteps': Key(1000, 'T', 1, 10**6),
      'beta_start': Key(1e-4, 'beta of the first timestep', 1e-9, 0.999),
      'beta_end': Key(0.02, 'beta of the last timestep', 1e-9, 0.999),
      'prediction_type': Key('epsilon', 'epsilon, sample or v_prediction'),
    },
  ),
  'train': (
    'Training',
    {
      'num_steps': Key(800_000, 'of each model', 1, 2**32),
      'stop_at': Key(
        0, 'step that training ends at, of a learning rate for num_steps; 0 is '
        'num_steps', 0, 2**32, late=True,
      ),
      'batch_size': Key(128, 'images a step', 1, 2**20),
      'learning_rate': Key(2e-4, 'of AdamW', 1e-12, 10.0),
      'warmup_steps': Key(5000, 'of the learning rate', 0, 2**32),
      'decay': Key('constant', 'of the learning rate: constant or cosine'),
      'weight_decay': Key(0.0, 'of AdamW', 0.0, 1e3),
      'clip_norm': Key(
        1.0, 'global norm of the gradient; 0 does not clip', 0.0, 1e9
      ),
      'ema_decay': Key(0.9999, 'of the averaged weights', 0.0, 1.0 - 1e-9),
      'weighting': Key('uniform', 'of timesteps (diffusion/losses.py)'),
      'label_dropout': Key(
        0.0, 'share of null labels, for classifier-free guidance', 0.0, 1.0
      ),
      'label_noise': Key(
        0.0, 'share of labels that any class replaces, at every step anew',
        0.0, 1.0, late=True,
      ),
      'ambient_timestep': Key(
        0, 'above it, images carry one noise for ever (diffusion/ambient.py); '
        '0 never', 0, 10**6, late=True,
      ),
      'models_per_block': Key(8, 'models that share a checkpoint', 1, 2**16),
      'log_every': Key(100, 'steps', 1, 2**32),
      'checkpoint_every': Key(10_000, 'steps', 1, 2**32),
      'max_to_keep': Key(2, 'newest checkpoints; 0 keeps all', 0, 2**20),
      'devices_per_model': Key(
        0, "that share a model's batches; 0 chooses", 0, 2**20, free=True
      ),
      'profile_steps': Key(
        0,
        'traced into profile/ after the first few; 0 traces none',
        0,
        2**20,
        free=True,
      ),
    },
  ),
  'sample': (
    'Sampling',
    {
      'sampler': Key('ddim', 'ddpm, ddim, plms, dpm_solver or heun'),
      'num_steps': Key(50, 'timesteps that are visited', 1, 10**6),
      'timestep_spacing': Key('leading', 'leading, linspace or trailing'),
      'eta': Key(0.0, 'of DDIM; 1 is as noisy as DDPM', 0.0, 1.0),
      'variance': Key('small', 'of ddpm: small, large or learned_range'),
      'clip_sample': Key(True, 'keep predicted images within [-1, 1]'),
      'guidance_scale': Key(1.0, 'classifier-free; 1 leaves it out', -1e3, 1e3),
      'classes': Key(
        (), 'labels to draw with, in turn; () is all, some may come twice'
      ),
      'batch_size': Key(512, 'of one model, over its devices', 1, 2**20),
      'block_size': Key(1024, 'images a file', 1, 2**24),
    },
  ),
  'signals': (
    'Signals of membership (attacks/membership/signals/)',
    {
      'kinds': Key(
        ('loss',),
        'loss, secmi, pia, pian, pfami, sima, rediffuse, gsa; the loss is '
        'always there',
      ),
      'timesteps': Key(
        (10, 25, 50, 75, 100, 150, 200, 300, 400, 600, 800), '0-based'
      ),
      'draws': Key(
        20, 'noise draws of Strong LiRA; the first alone is LiRA', 1, 1000
      ),
      'stride': Key(10, 'timesteps a DDIM step of SecMI', 1, 10**6),
      'published': Key(
        False,
        'secmi_published, pfami_published and rediffuse_published too: their '
        "authors' settings",
      ),
      'variations': Key(10, 'of ReDiffuse', 1, 1000),
      'variation_stride': Key(
        50, 'timesteps a DDIM step of ReDiffuse', 1, 10**6
      ),
      'batch_size': Key(512, 'of one model, over its devices', 1, 2**20),
      'block_size': Key(4096, 'images a file', 1, 2**24),
    },
  ),
  'membership': (
    'Membership',
    {
      'timestep': Key(100, "the paper's, beside the chosen one", 0, 10**6),
      'transform': Key('none', 'of the signals: none or log'),
      'variance': Key(
        'pooled',
        'of LiRA, whose scores are written out: pooled, per_example or '
        'shrunken',
      ),
      'num_resamples': Key(1000, 'of every bootstrap', 40, 10**6),
    },
  ),
  'nearest_sample': (
    'Membership from samples alone',
    {
      'neighbours': Key(
        3,
        'samples nearest to an example, whose mean distance is its signal; 0 '
        'leaves it out',
        0,
        1024,
        late=True,
      ),
      'choices': Key(
        (1, 10),
        'further numbers of them, of which one is chosen on other models',
        late=True,
      ),
    },
  ),
  'quality': (
    'Quality of the samples',
    {
      'inception': Key(
        '',
        "Inception-v3's weights for FID (interop/inception.py); '' is FD-PCA "
        'alone',
        free=True,
      ),
    },
  ),
  'extraction': (
    'Extraction',
    {
      'target_precision': Key(0.95, 'kept on the other models', 0.0, 1.0),
      'duplicate_distance': Key(
        0.02,
        'RMSE; nearer images are one: on one side of every split, counted once',
        0.0,
        1.0,
      ),
      'neighbours': Key(
        'distinct',
        "the n nearest of the threshold: distinct, or images, the paper's rule "
        'to the letter, by which an image with n copies cannot be hit',
      ),
      'shift': Key(
        0,
        'pixels that samples may be moved by to be near an image; takes (2 '
        'shift + 1)^2 times as long',
        0,
        16,
        late=True,
      ),
      'tiles': Key(
        0,
        'along each side, 4 in the paper for large pictures (section 4.2): two '
        'images are as far apart as the farthest of their tiles, so that a '
        'common background is no copy; 0 compares whole images',
        0,
        64,
        late=True,
      ),
      'eidetic_distance': Key(
        0.1,
        'RMSE; training images as near to one that was given away are its '
        'copies (attacks/extraction/eidetic.py)',
        0.0,
        1.0,
      ),
      'eidetic_shift': Key(
        0, 'pixels that such copies may be moved by', 0, 4096
      ),
      'other_run': Key(
        '',
        'a finished run on the same images: what do both give away?',
        free=True,
      ),
    },
  ),
  'inpainting': (
    'Inpainting (attacks/inpainting/)',
    {
      'num_images': Key(
        0,
        'of each pair of models, 0 leaves it out; the paper has 100',
        0,
        2**20,
      ),
      'masks': Key(('left',), 'what is hidden: left, centre or random'),
      'draws': Key(5000, 'inpaintings of an image', 1, 2**20),
      'kept': Key(10, 'the likeliest, whose distance counts', 1, 2**20),
      'timestep': Key(100, 'of the losses that judge', 0, 10**6),
      'loss_draws': Key(20, 'noise draws of each loss', 1, 1000),
      'num_steps': Key(
        250,
        "RePaint's (diffusion/repaint.py); fewer, with eta = 0 and "
        'jump_n_sample = 1, are as fast as DDIM',
        1,
        10**6,
      ),
      'jump_length': Key(10, "RePaint's", 1, 10**6),
      'jump_n_sample': Key(10, "RePaint's", 1, 10**4),
      'eta': Key(1.0, 'of its steps', 0.0, 1.0),
      'batch_size': Key(512, 'of one model, over its devices', 1, 2**20),
    },
  ),
  'side': (
    'Surrogate guidance, SIDE (attacks/side/)',
    {
      'num_samples': Key(0, 'guided, of each model; 0 leaves it out', 0, 2**40),
      'num_learned': Key(
        1024, 'plain samples that a surrogate learns from', 2, 2**40
      ),
      'num_clusters': Key(100, 'of the plain samples', 2, 2**16),
      'cohesion': Key(0.5, 'that a cluster must have', -1.0, 1.0),
      'scale': Key(5.0, 'lambda of the guidance', 0.0, 1e6),
      'channels': Key((32, 64), 'of the surrogate'),
      'num_steps': Key(2000, 'that a surrogate is trained', 1, 2**32),
      'batch_size': Key(128, 'of its training', 1, 2**20),
      'learning_rate': Key(1e-3, 'of its training', 1e-12, 10.0),
    },
  ),
  'canaries': (
    'Canaries, in models of their own (attacks/canaries/)',
    {
      'num_models': Key(0, 'repetitions; 0 leaves them out', 0, 2**16),
      'counts': Key((1, 2, 4, 8, 16, 32, 64), 'copies of a canary'),
      'per_count': Key(8, 'canaries for each number of copies', 1, 2**16),
      'coins': Key(
        64, 'trained on once or not at all: twice as many in all', 2, 2**16
      ),
      'pool': Key(1024, 'canaries to rank the others in', 1, 2**20),
      'timestep': Key(100, 'of the losses', 0, 10**6),
      'draws': Key(20, 'noise draws of each loss', 1, 1000),
    },
  ),
  'private': (
    'Private training, DP-SGD (training/private.py, defences/accounting.py)',
    {
      'epsilon': Key(
        0.0, 'that training keeps to; 0 trains without a guarantee', 0.0, 40.0,
        late=True,
      ),
      'delta': Key(1e-5, 'of the guarantee', 1e-9, 0.5, late=True),
      'clip_norm': Key(
        1.0, 'largest norm of the gradient of an example', 1e-9, 1e9, late=True
      ),
      'multiplicity': Key(
        1, 'noise draws that the loss of an example is the mean of', 1, 4096,
        late=True,
      ),
      'at_once': Key(
        0, 'examples whose gradients are computed together; 0 is all', 0, 2**20,
        free=True, late=True,
      ),
      'warm_releases': Key(
        0,
        'noised means of some images of each class, that training starts with '
        '(defences/class_moments.py)',
        0, 2**20, late=True,
      ),
      'warm_share': Key(0.1, 'of the images in each', 1e-6, 1.0, late=True),
      'warm_noise': Key(
        5.0, 'noise multiplier of each', 1e-3, 1e6, late=True
      ),
      'warm_covariance': Key(
        0.0,
        'noise multiplier of a covariance of each class; the first steps are '
        'on images drawn from means and covariances. 0: on the means',
        0.0, 1e6, late=True,
      ),
      'warm_draws': Key(
        512, 'images drawn of each class, with warm_covariance', 1, 2**20,
        late=True,
      ),
      'warm_steps': Key(0, 'first steps, on these', 0, 2**32, late=True),
    },
  ),
}  # fmt: skip
