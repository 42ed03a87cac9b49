"""Scores or signals that a user measured elsewhere."""

from collections.abc import Sequence

import ml_collections
import numpy as np

from jaxdiff import subjects
from jaxdiff.attacks.membership import lira
from jaxdiff.data import datasets
from jaxdiff.data import examples as examples_lib
from jaxdiff.data.readers import score_files, score_folders
from jaxdiff.plans.checks import need
from jaxdiff.plans.kinds import base
from jaxdiff.runs import layout
from jaxdiff.subjects import told as told_lib

GIVES = ('examples', 'signals')

# How models are left out of each other's shadow statistics.
_LEFT_OUT = ('none', 'pairs')


def devices(c: ml_collections.ConfigDict) -> tuple[int, Sequence[int]]:
  """Models that are worked on together, and sizes of batches."""
  del c
  return 1, ()


def check(c: ml_collections.ConfigDict) -> None:
  """Raises ValueError for values that make no sense."""
  for key, known in (
    ('layout', score_folders.LAYOUTS), ('left_out', _LEFT_OUT),
  ):  # fmt: skip
    need(c[key] in known, f'{key}: no {c[key]!r}; there is {", ".join(known)}')
  variance = c.membership.variance
  need(
    variance in lira.VARIANCES,
    f'membership.variance: no {variance!r}; there is '
    f'{", ".join(lira.VARIANCES)}',
  )
  need(
    bool(c.path) != bool(c.members) and bool(c.members) == bool(c.non_members),
    'path: give either --config.path, or --config.members and '
    '--config.non_members',
  )


def read(c: ml_collections.ConfigDict, run: layout.Run | None) -> base.Read:
  """The scores that a config names."""
  del run
  scores = score_files.read(
    c.path,
    members=c.members,
    non_members=c.non_members,
    layout=c.layout,
    larger_is_member=c.larger_is_member,
  )
  count = len(scores.examples)
  dataset = datasets.make(
    np.zeros((count, 0, 0, 0), np.uint8),
    np.zeros(count, np.int32),
    scores.examples,
    num_classes=1,
  )
  return base.Read(dataset, scores)


def check_images(
  c: ml_collections.ConfigDict, dataset: datasets.Dataset
) -> None:
  """Scores have no images."""
  del c, dataset


def make(
  c: ml_collections.ConfigDict, read: base.Read, step: int | None = None
) -> base.Made:
  """The models that were scored."""
  del step
  scores = read.more
  keep = scores.keep
  members = keep[np.isfinite(scores.columns[0].values).all(axis=2)]
  need(
    0 < members.sum() < len(members),
    'path: an ROC needs scores of members and of non-members; there are '
    f'{members.sum()} and {(~members).sum()}',
  )
  numbers = np.arange(len(keep))
  if c.left_out == 'pairs':
    need(
      len(keep) % 2 == 0 and (keep[::2] != keep[1::2]).all(),
      'left_out: pairs wants models 2j and 2j + 1 on complementary halves',
    )
    numbers = numbers // 2
  count = len(read.dataset)
  return base.Made(
    subject=subjects.Subject(
      kind=f'a set of scores ({scores.layout})',
      told=told_lib.Told(
        short='membership by given scores',
        title=f'Membership by the scores of “{c.name}”',
        subject=(
          f'{", ".join(column.name for column in scores.columns)} '
          f'({scores.layout}) of '
          f'{len(keep):,} models and {count:,} examples.'
        ),
        limits=(
          'The numbers hold for these scores. Nothing here says how they were '
          'measured, or whether members and others differ in anything but '
          'training: no images were seen, so that there is no blind baseline.'
        ),
      ),
      examples=examples_lib.Examples(
        images=read.dataset.images,
        labels=read.dataset.labels,
        num_classes=1,
        cond=None,
        group=np.arange(count),
        image=np.arange(count),
        keep=keep,
        left_out=numbers,
        paired=c.left_out == 'pairs',
      ),
      signals=scores,
    ),
    inputs={'path': scores.digest},
  )
