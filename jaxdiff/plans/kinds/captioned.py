"""An ensemble of text-to-image models that the run trains itself.

A text encoder is trained with each denoiser. Images are their own latents.
"""

from collections.abc import Sequence
import dataclasses
import functools
from typing import Any

import jax.numpy as jnp
from jax.sharding import Mesh
import ml_collections
import numpy as np
import pandas as pd

from jaxdiff import subjects
from jaxdiff.attacks.extraction import duplicates
from jaxdiff.attacks.membership.signals import clid
from jaxdiff.data import captioned_sets, captions, datasets, known_prompts
from jaxdiff.data import examples as examples_lib
from jaxdiff.diffusion import samplers, schedules
from jaxdiff.interop import clip_tokenizer, clip_vocabulary, pipeline_folder
from jaxdiff.models.text_to_image import clip_text, unet
from jaxdiff.plans import checks, images, outside, training
from jaxdiff.plans import model as plans_model
from jaxdiff.plans.kinds import base
from jaxdiff.plans.stages import membership
from jaxdiff.runs import layout
from jaxdiff.sampling import prompted
from jaxdiff.subjects import captioned_nets
from jaxdiff.subjects import told as told_lib
from jaxdiff.training import block_states, train_step

GIVES = (
  'examples', 'non_members', 'pairs', 'samples', 'prompting',
  'kept', 'noise_predictor', 'measurable', 'training', 'captions',
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Words:
  """The captions of a run as numbers.

  Attributes:
    vocabulary: learned from them.
    tokenizer: made of it.
  """

  vocabulary: clip_vocabulary.Vocabulary
  tokenizer: clip_tokenizer.ClipTokenizer

  def rows(self, texts: Sequence[str]) -> np.ndarray:
    """int32 [n, text encoders, T]: there is one."""
    return self.tokenizer(texts)[:, None]


def devices(c: ml_collections.ConfigDict) -> tuple[int, Sequence[int]]:
  """Models that are worked on together, and sizes of batches."""
  return checks.trained_devices(c)


def check(c: ml_collections.ConfigDict) -> None:
  """Raises ValueError for values that make no sense, alone or together."""
  checks.one_of(c, 'data.name', captioned_sets.NAMES)
  checks.check_training(c)
  if c.data.copies:
    checks.need_whole_numbers('data.copies', c.data.copies)
  checks.need(
    c.data.name != 'image_folder' or bool(c.data.path),
    'data.path: name a folder of images with captions: --config.data.path=DIR',
  )
  membership.check_signals(c, c.diffusion.num_train_timesteps, captions=True)
  samplers.check_steps(
    c.sample.sampler, c.sample.num_steps, c.diffusion.num_train_timesteps,
    pipeline_folder.OPTIONS['timestep_spacing'],
  )  # fmt: skip
  checks.need(
    c.text.hidden_size % c.text.num_attention_heads == 0,
    f'text.num_attention_heads: {c.text.num_attention_heads} do not divide '
    f'text.hidden_size, {c.text.hidden_size}',
  )
  checks.check_levels(c, unet.DOWN_BLOCKS, unet.UP_BLOCKS)
  scale = 2 ** (len(c.model.block_out_channels) - 1)
  checks.need(
    c.data.image_size % scale == 0,
    f'data.image_size: {c.data.image_size} must be a multiple of {scale}, by '
    'which model.block_out_channels halves images',
  )


def read(c: ml_collections.ConfigDict, run: layout.Run | None) -> base.Read:
  """The images with their captions, copies among them."""
  dataset = captioned_sets.load(
    c.data.name, c.data.path, c.data.image_size, c.data.skip_broken
  )
  dataset = captioned_sets.apart(dataset, c.data.apart)
  dataset = datasets.choose(dataset, c.data.num_examples, c.seed)
  dataset = captioned_sets.with_copies(
    dataset, c.data.copies, c.data.per_copies, c.seed
  )
  checks.check_size(c, dataset)
  dataset = images.join_duplicates(
    dataset, c.extraction.duplicate_distance, c.flip, run, c.extraction.tiles
  )
  # Images of one caption are no independent evidence.
  same = datasets.codes([captions.plain(x) for x in dataset.captions])[0]
  group = duplicates.join(dataset.group, same).astype(np.int32)
  return base.Read(dataclasses.replace(dataset, group=group))


def check_images(
  c: ml_collections.ConfigDict, dataset: datasets.Dataset
) -> None:
  """Raises ValueError for images that the rest of the config cannot take."""
  checks.check_size(c, dataset)
  checks.need(
    len(dataset.captions) == len(dataset), 'data.name: has no captions'
  )
  checks.check_groups(dataset)


def make(
  c: ml_collections.ConfigDict, read: base.Read, step: int | None = None
) -> base.Made:
  """The ensemble of a config.

  Args:
    c: the config.
    read: the images that its models train on halves of.
    step: a checkpoint in the midst of training; None is its end.
  """
  dataset = read.dataset
  vocabulary = clip_vocabulary.learn(
    dataset.captions, c.text.num_merges, c.text.length
  )
  words = Words(vocabulary, vocabulary.tokenizer())
  checks.warn_of_length(words.tokenizer, 'captions', dataset.captions)
  told = words.rows(
    [
      text
      for caption in dataset.captions
      for text in (caption, *clid.reduced(caption))
    ]
  ).reshape(len(dataset), 1 + clid.NUM_REDUCED, 1, -1)
  examples = examples_lib.split(
    dataset,
    c.seed,
    c.num_models,
    rule=c.split,
    conditional=False,
    flip=c.flip,
    cond=told,
  )
  schedule = schedules.make(
    c.diffusion.beta_schedule,
    c.diffusion.num_train_timesteps,
    c.diffusion.beta_start,
    c.diffusion.beta_end,
  )
  nets = make_nets(c, words, examples.shape, schedule)
  loss_fn = plans_model.make_loss_fn(
    nets.apply,
    schedule,
    prediction_type=c.diffusion.prediction_type,
    weighting=c.train.weighting,
    label_dropout=c.train.label_dropout,
    null_label=words.rows([''])[0, 0],
  )
  train = training.make_plan(
    c, nets.init, train_step.make_grad_fn(loss_fn), training.make_tx(c.train),
    examples,
  )  # fmt: skip

  def restore(block: layout.ModelBlock, mesh: Mesh) -> Any:
    return block_states.restore_ema(train, block, mesh, step)

  ensemble = dataclasses.replace(train.ensemble, restore=restore)
  drawn = _drawn(c, dataset, ensemble, nets, words)
  return base.Made(
    subject=subjects.Subject(
      kind='an ensemble trained by the run',
      told=tell(c, examples),
      examples=examples,
      ensemble=ensemble,
      schedule=schedule,
      eps_fn_of=nets.eps_fn_of,
      prepare=nets.prepare,
      samples=drawn,
      prompted=drawn,
      known=_known(drawn.texts, examples),
      train=train,
    ),
    inputs={
      'captions': checks.digest_of_texts(dataset.captions),
      'tokens': checks.digest_of_texts(list(vocabulary.files().values())),
    },
    looked_at=outside.looked_at(c),
    export=lambda params, folder: pipeline_folder.write(
      folder, _as_folder(c, nets, vocabulary, params)
    ),
  )


def make_nets(
  c: ml_collections.ConfigDict,
  words: Words,
  image_shape: tuple[int, int, int],
  schedule: schedules.Schedule,
) -> captioned_nets.CaptionedNets:
  """The nets of a config."""
  dtype = jnp.dtype(c.model.dtype)

  def of_config(group: str, *keys: str) -> dict[str, Any]:
    return {key: c[group][key] for key in keys}

  return captioned_nets.CaptionedNets(
    text=clip_text.TextEncoder(
      vocab_size=words.tokenizer.vocab_size,
      max_position_embeddings=c.text.length,
      eos_token_id=words.tokenizer.eos,
      dtype=dtype,
      **of_config(
        'text', 'hidden_size', 'intermediate_size', 'num_hidden_layers',
        'num_attention_heads',
      ),
    ),
    denoiser=unet.ConditionalUNet(
      out_channels=image_shape[-1],
      dtype=dtype,
      block_out_channels=tuple(c.model.block_out_channels),
      down_block_types=tuple(c.model.down_block_types),
      up_block_types=tuple(c.model.up_block_types),
      **of_config(
        'model', 'layers_per_block', 'attention_head_dim',
        'transformer_layers_per_block', 'norm_num_groups',
      ),
    ),
    image_shape=image_shape,
    schedule=schedule,
    prediction_type=c.diffusion.prediction_type,
    length=c.text.length,
  )  # fmt: skip


def _drawn(
  c: ml_collections.ConfigDict,
  dataset: datasets.Dataset,
  ensemble: Any,
  nets: captioned_nets.CaptionedNets,
  words: Words,
) -> prompted.PromptedPlan:
  """Images of every caption, of those that a model did not see, too."""
  texts = tuple(dict.fromkeys(dataset.captions))
  calls = samplers.evaluations(c.sample.sampler, c.sample.num_steps)

  def restore(block: layout.ModelBlock, mesh: Mesh) -> Any:
    return ensemble.restore(block, mesh) | {'decode': {}}

  return prompted.PromptedPlan(
    num_samples=len(texts) * c.num_seeds,
    block_size=c.sample.block_size,
    texts=texts,
    table=pd.DataFrame(
      {
        'id': range(len(texts)),
        'prompt': texts,
        'number': range(len(texts)),
      }
    ),
    tokens_of=words.rows,
    encode_fn=nets.encode,
    denoise_fn=functools.partial(
      nets.denoise,
      sampler=c.sample.sampler,
      num_steps=c.sample.num_steps,
      eta=c.sample.eta,
      guidance_scale=c.sample.guidance_scale,
    ),
    decode_fn=lambda params, x0: jnp.clip(x0, -1.0, 1.0),
    denoiser=nets.stepwise(),
    guidance_scale=c.sample.guidance_scale,
    ensemble=dataclasses.replace(
      ensemble,
      restore=restore,
      shapes=lambda: ensemble.shapes() | {'decode': {}},
    ),
    batch_size=c.sample.batch_size,
    decode_batch_size=c.sample.batch_size,
    num_steps=calls,
    image_shape=nets.image_shape,
  )


def _known(
  texts: Sequence[str], examples: examples_lib.Examples
) -> known_prompts.Known:
  """Which captions each model saw images of, and how many there are."""
  trained, copies = known_prompts.of_captions(
    texts, examples.captions, examples.keep
  )
  first = {text: k for k, text in reversed([*enumerate(examples.captions)])}
  of_images = examples.group[[first[text] for text in texts]]
  return known_prompts.Known(
    trained=trained,
    copies=copies,
    group=duplicates.join(of_images, known_prompts.groups(texts)),
    ids=tuple(map(str, range(len(texts)))),
  )


def _as_folder(
  c: ml_collections.ConfigDict,
  nets: captioned_nets.CaptionedNets,
  vocabulary: clip_vocabulary.Vocabulary,
  params: Any,
) -> pipeline_folder.Pretrained:
  """A trained model as a pipeline folder's content."""
  return pipeline_folder.Pretrained(
    text_encoder=nets.text,
    text_params=params['encode'],
    unet=nets.denoiser,
    unet_params=params['denoise'],
    vocabulary=vocabulary,
    sample_size=c.data.image_size,
    diffusion=c.diffusion.to_dict(),
  )


def tell(
  c: ml_collections.ConfigDict, examples: examples_lib.Examples
) -> told_lib.Told:
  """What reports say of the ensemble."""
  num_training = int(np.median(examples.keep.sum(axis=1)))
  distinct = len(set(examples.captions))
  return told_lib.Told(
    short='what text-to-image models memorised',
    title=f'What the text-to-image models of “{c.name}” memorised',
    subject=(
      f'{examples.num_models} models, each trained for {training.last_step(c)} '
      f'steps on {num_training} of {len(examples)} images with {distinct} '
      f'captions ({c.data.name}); {c.num_seeds} images of each caption from '
      'each.'
    ),
    limits=(
      'The numbers hold for these models, this data and these attacks: a '
      'stronger attack, more samples or longer training can find more, and '
      'finding nothing would not be a guarantee.'
    ),
    methods=(
      'Every model draws every caption, of images that it trained on and of '
      'others, which are its control.',
    ),
  )
