"""Estimates against compiled programs and counts by hand."""

import subprocess
import sys

import jax
import numpy as np
import pytest

from configs import cifar10_shadow
from jaxdiff import plans as plans_lib
from jaxdiff.pipeline import dry_run
from jaxdiff.runtime import hardware
from tests import processes, tiny

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def plans():
  return tiny.plans(
    model__block_out_channels=(32,), model__norm_num_groups=8,
    train__batch_size=64,
  )  # fmt: skip


@pytest.fixture(scope='module')
def estimate(plans):
  return dry_run.make(plans)


def test_work_is_that_of_the_compiled_step(plans, estimate):
  compiled = dry_run.train_program(plans.subject.train).lower().compile()
  flops = compiled.cost_analysis()['flops'] / plans.subject.train.batch_size
  # XLA leaves out taps beyond the border: of 3 x 3 on 8 x 8, a sixth.
  assert 1.0 < estimate.units.train_flops / flops < 1.2
  # Backwards takes two products for each of forwards.
  assert 2.6 < estimate.units.train_flops / estimate.units.network_flops < 3.2


def test_counts_are_those_of_the_run(plans, estimate):
  params = plans.subject.train.init_fn(jax.random.key(0))
  sizes = [np.size(leaf) for leaf in jax.tree.leaves(params)]
  assert estimate.parameters == sum(sizes)
  # Weights, their average and Adam's two moments, and a few counters.
  assert 0 <= estimate.units.state_bytes - 16 * sum(sizes) < 100
  assert estimate.image_bytes == 64 * 8 * 8
  costs = estimate.costs
  assert costs['train'].flops == 8 * 20 * 64 * estimate.units.train_flops
  assert costs['sample'].flops == 8 * 64 * 4 * estimate.units.network_flops
  assert (
    costs['membership'].flops == 8 * 64 * 3 * 2 * estimate.units.network_flops
  )
  assert costs['extraction'].flops == 2 * (8 * 64) * 64 * 64
  assert costs['sample'].disk == 8 * 64 * 64


def test_known_sets_need_not_be_there():
  config = cifar10_shadow.get_config('runlocal')
  config.data.path = 'no/such/file'
  dataset = dry_run.stand_in('cifar10', config.data.num_examples)
  assert plans_lib.make(config, dataset).dataset.images.shape == (
    128,
    32,
    32,
    3,
  )
  assert dry_run.stand_in('image_folder', 10) is None


def test_what_does_not_fit_is_said(plans, estimate, monkeypatch):
  small = (4, hardware.Chip(peak=1e12, memory=1e3))
  monkeypatch.setattr(dry_run, 'MACHINES', {'small': small})
  *_, line = dry_run.lines(plans, estimate, 0.5)
  assert line.startswith('small: ') and line.endswith('TOO MUCH')
  assert '2 models a chip, 1 chips a model' in line
  hours = sum(cost.flops for cost in estimate.costs.values()) / 0.5e12 / 3600
  assert f'({hours:.3g} chip-hours on 4)' in line


def test_a_dry_run_leaves_nothing(tmp_path):
  folder = tmp_path / 'run'
  done = subprocess.run(
    [sys.executable, '-m', 'launch.audit', '--config=configs/digits.py',
     f'--workdir={folder}', '--dry_run', '--utilisation=0.5',
     '--config.model.block_out_channels=(8, 8)',
     '--config.model.norm_num_groups=4', '--config.model.add_attention=False'],
    cwd=processes.ROOT, capture_output=True, text=True, check=True,
  )  # fmt: skip
  assert 'assumed: 50% of the bfloat16 peak' in done.stdout
  assert all(name in done.stdout for name in dry_run.MACHINES)
  assert not folder.exists()
