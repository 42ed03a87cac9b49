"""Membership from samples: is an example nearer to them than it should be?

(1)  signal_m(x) = log mean(d_1 .. d_m),

d_1 <= d_2 <= ... the distances (RMSE) from example x to a model's samples, as
in the Monte Carlo attack of Hilprecht, Haerterich & Bernau (2019), whose share
of samples within a radius has the m-th distance for its inverse. By itself it
says how common an example is; against the same distance to samples of models
that never saw it (LiRA, RMIA) it says what this model knows of it. It needs
neither weights nor queries: whoever holds samples can compute it.

A distance of 0 counts as half of the smallest that 8-bit pixels can have.
"""

from collections.abc import Sequence
import dataclasses
import math

import jax
import numpy as np
import pandas as pd

from jaxdiff.attacks.membership import comparison as membership_comparison
from jaxdiff.attacks.membership import evaluate as membership_evaluate
from jaxdiff.attacks.membership import registry
from jaxdiff.attacks.membership.signals import base
from jaxdiff.data import examples as examples_lib
from jaxdiff.nearest import index as index_lib
from jaxdiff.nearest import sizes
from jaxdiff.runs import blocks, files, layout
from jaxdiff.runs import samples as samples_lib
from jaxdiff.runtime import multihost, preemption, programs, progress

NAME = 'nearest_sample'

# Bytes of samples that are indexed at once.
_AT_ONCE = 2**28


class Paths(layout.Part):
  """Distances to the samples of every model, and the tables made of them."""

  scores = layout.File('nearest_sample/scores.csv')
  summary = layout.File('nearest_sample/summary.csv')
  roc = layout.File('nearest_sample/roc.csv')
  timesteps = layout.File('nearest_sample/neighbours.csv')
  comparison = layout.File('nearest_sample/comparison.csv')
  blind = layout.File('nearest_sample/blind.csv')

  def distances(self, model: int):
    """The file of one model."""
    return layout.block_path(self.path / 'nearest_sample', model, 0)


@dataclasses.dataclass(frozen=True)
class NearestSamplePlan:
  """All that the attack needs; made by `plans`.

  Attributes:
    scores: examples, models and what is made of the signals; its `timestep` is
      the m of rule `fixed`.
    samples: of every model. To more samples distances are smaller, for members
      and others alike: models of other numbers than the target's still serve.
    neighbours: every m of equation (1), rising.
  """

  scores: membership_evaluate.MembershipPlan
  samples: samples_lib.Samples
  neighbours: tuple[int, ...]

  @property
  def examples(self) -> examples_lib.Examples:
    return self.scores.examples

  def identity(self, run: layout.Run, model: int) -> str:
    """Of the distances: those to other numbers of samples are others."""
    count, most = self.samples.count(model), max(self.neighbours)
    return f'{run.identity} {count} samples, {most} nearest'


def measure(plan: NearestSamplePlan, run: layout.Run) -> None:
  """Writes the distances of every model that lacks them."""
  examples, most = plan.examples, max(plan.neighbours)
  rows = np.arange(len(examples))
  missing = [
    model
    for model in range(examples.num_models)
    if blocks.absent(
      dataclasses.replace(run, identity=plan.identity(run, model)),
      [(model, 0)],
      lambda model, start: Paths(run).distances(model),
      ('distance',),
      {0: rows},
    )
  ]
  missing = missing[multihost.share(len(missing))]
  counts = [plan.samples.count(k) for k in range(examples.num_models)]
  done = sum(counts) - sum(counts[model] for model in missing)
  with progress.track(NAME, sum(counts), 'samples', done) as advance:
    for model in missing:
      nearest = np.full((len(examples), most), np.inf, np.float32)
      for piece in _pieces(plan, run, model):
        found = distances(examples.images, piece, most, examples.flip)
        nearest = np.sort(np.concatenate([nearest, found], axis=1), axis=1)
        nearest = nearest[:, :most]
        advance(len(piece))
        if preemption.asked():
          break
      if preemption.asked():
        break
      blocks.write_block(
        Paths(run).distances(model),
        plan.identity(run, model),
        model,
        indices=rows,
        distance=nearest,
      )
  if multihost.any_of(preemption.asked()):
    preemption.leave()
  multihost.barrier(NAME)


def programs_of(
  plan: NearestSamplePlan, devices: Sequence[jax.Device]
) -> list[programs.Program]:
  """What the search compiles; processes share the models."""
  examples, pixels = plan.examples, math.prod(plan.examples.shape)
  counts = [plan.samples.count(k) for k in range(examples.num_models)]
  # Whole blocks come together, as in `_pieces`.
  block = min(plan.samples.block_size, max(counts))
  piece = min(max(counts), -(-_AT_ONCE // (block * pixels)) * block)
  pieces = sum(-(-count // piece) for count in counts)
  calls = pieces * (2 if examples.flip else 1)
  return sizes.programs_of(
    'nearest samples', len(examples), piece, pixels,
    min(max(plan.neighbours), piece), programs.of_one_process(devices),
    calls / programs.num_processes(devices),
    pieces / programs.num_processes(devices),
  ) + registry.programs_of(
    registry.on_signal(NAME), queries_of(plan.neighbours), examples,
    plan.scores.timestep, programs.of_one_process(devices),
  )  # fmt: skip


def distances(
  images: np.ndarray, samples: np.ndarray, most: int, flip: bool
) -> np.ndarray:
  """RMSE of every image to its nearest samples, rising: float32 [N, k].

  Args:
    images: uint8 [N, H, W, C].
    samples: uint8 [S, H, W, C].
    most: k; S where there are fewer.
    flip: a sample's mirror image is another.
  """
  index = index_lib.Index(samples)
  k = min(most, len(samples))
  found = index.nearest(images, k)[0]
  if flip:
    mirrored = index.nearest(images[:, :, ::-1], k)[0]
    found = np.sort(np.concatenate([found, mirrored], axis=1), axis=1)[:, :k]
  return found


def _pieces(plan: NearestSamplePlan, run: layout.Run, model: int):
  """The samples of a model: uint8 [S, H, W, C] at a time."""
  held: list[np.ndarray] = []
  for start in range(0, plan.samples.count(model), plan.samples.block_size):
    held.append(plan.samples.read(run, model, start))
    if sum(block.nbytes for block in held) >= _AT_ONCE:
      yield np.concatenate(held)
      held = []
  if held:
    yield np.concatenate(held)


def signals_of(
  distance: np.ndarray, neighbours: tuple[int, ...], num_pixels: int
) -> np.ndarray:
  """Equation (1): distances [N, k] -> float32 [N, M], one column an m.

  Args:
    distance: rising.
    neighbours: every m.
    num_pixels: numbers in an image, of which the floor is made.
  """
  floor = 0.5 / 255.0 / np.sqrt(num_pixels)
  mean = np.stack(
    [distance[:, :m].mean(axis=1, dtype=np.float64) for m in neighbours], axis=1
  )
  return np.log(np.maximum(mean, floor)).astype(np.float32)


def queries_of(neighbours: tuple[int, ...]) -> pd.DataFrame:
  """The columns of `signals_of`; m stands where other signals have t."""
  return base.table([(NAME, m, 0, 0, '', 0.0) for m in neighbours])


def analyse(plan: NearestSamplePlan, run: layout.Run) -> None:
  """Scores stored distances; writes the tables of nearest_sample/.

  Raises:
    InputError: if the distances of a model are missing or torn.
  """
  examples = plan.examples
  per_model = []
  for model in range(examples.num_models):
    stored = blocks.read_rows(
      dataclasses.replace(run, identity=plan.identity(run, model)),
      lambda model, start: Paths(run).distances(model),
      model,
      len(examples),
      len(examples),
      ('distance',),
    )['distance']
    pixels = int(np.prod(examples.shape))
    per_model.append(signals_of(stored, plan.neighbours, pixels))
  blind = membership_evaluate.blind_of(plan.scores)
  tables = membership_evaluate.score(
    plan.scores,
    np.stack(per_model),
    queries_of(plan.neighbours),
    registry.on_signal(NAME),
    blind.shifted,
  )
  membership_comparison.write(tables, Paths(run))
  files.write_csv(Paths(run).blind, membership_comparison.blind_table(blind))
