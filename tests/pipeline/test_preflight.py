"""Every program of a run, compiled for a slice that is elsewhere."""

import collections
import dataclasses
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from jaxdiff import inputs, subjects
from jaxdiff import plans as plans_lib
from jaxdiff.attacks.membership import lira
from jaxdiff.metrics import tiled_distance
from jaxdiff.pipeline import preflight, preflight_text
from jaxdiff.runs import layout, opening
from jaxdiff.runtime import mesh as mesh_lib
from jaxdiff.runtime import programs
from jaxdiff.training import block_states, loop
from tests import processes, tiny


@pytest.fixture(scope='module', autouse=True)
def cache(tmp_path_factory):
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('XDG_CACHE_HOME', str(tmp_path_factory.mktemp('cache')))
    yield


@pytest.fixture(scope='module')
def where():
  return preflight.slice_of('v5e:2x2')


def config(**overrides):
  settings = {
    'num_models': 2,
    'split': 'paired',
    'model__dtype': 'bfloat16',
    'num_samples': 32,
  }
  return tiny.config(**settings | overrides)


@pytest.fixture(scope='module')
def found(where):
  plans = plans_lib.make(config())
  checked = list(preflight.check(plans, where))
  return plans, {each.program: each for each in checked}


def test_every_program_fits_and_says_what_it_takes(found, where):
  _, by_name = found
  assert {'train: initialisation', 'train: step', 'sampler', 'signals'} < set(
    by_name
  )
  for each in by_name.values():
    assert preflight.fits(each, where), each
    assert each.bytes < 50e6
    assert each.facts.cycles > 0
    line = preflight_text.line(each, where)
    assert line.startswith(f'v5e:2x2 {each.program}: ')
    assert 'TOO MUCH' not in line


def test_a_training_step_adds_up_gradients_along_data_alone(found):
  plans, by_name = found
  train = subjects.given(plans.subject.train)
  params = jax.eval_shape(train.init_fn, jax.random.key(0))
  gradients = 4 * sum(leaf.size for leaf in jax.tree.leaves(params))
  facts = by_name['train: step'].facts
  assert {x.axes for x in facts.collectives} == {('data',)}
  assert {x.kind for x in facts.collectives} == {'all-reduce'}
  # With the loss; gradients of some biases go in bfloat16.
  total = sum(x.bytes for x in facts.collectives)
  assert 0.98 * gradients < total <= gradients + 4
  assert not facts.float64


def test_what_is_cut_along_data_is_gathered_there(where, monkeypatch):
  """With the gradients, what two steps of a ring would: no other axis."""
  monkeypatch.setattr(mesh_lib, 'LEAST_CUT', 2**8)
  train = subjects.given(plans_lib.make(config()).subject.train)
  step = loop.programs_of(train, list(where.devices))[1]
  found = preflight._compile('train', step, where)
  whole = train.ensemble.placements(where.devices)[0].mesh
  state = block_states.abstract_states(train, 2, whole)
  params, average = (
    programs.bytes_of(tree) for tree in (state.params, state.ema_params)
  )
  assert average < 0.6 * params
  assert {x.axes for x in found.facts.collectives} == {('data',)}
  by_kind = collections.Counter()
  for each in found.facts.collectives:
    by_kind[each.kind] += each.bytes
  assert set(by_kind) == {'all-reduce', 'all-gather'}
  assert by_kind['all-reduce'] <= params + 1024
  assert by_kind['all-gather'] <= params


def test_models_are_sampled_and_asked_without_a_word_between_chips(found):
  _, by_name = found
  for name in ('sampler', 'signals', 'neighbours, training: propose'):
    assert not by_name[name].facts.collectives
    assert not by_name[name].facts.float64


def test_lira_gathers_sums_along_data_alone(where):
  program = lira.program(
    'lira', np.arange(8) // 2, 64, 3, list(where.devices), 1.0
  )
  found = preflight._compile('membership', program, where)
  assert preflight.fits(found, where)
  assert {x.axes for x in found.facts.collectives} == {('data',)}
  assert sum(x.bytes for x in found.facts.collectives) < 1e5


def test_attacks_are_counted_as_they_are_scored(where):
  """For each of four pairs a timestep is chosen on the other six models."""
  plans = plans_lib.make(config(num_models=8))
  stage = plans.stage('membership')
  calls = {x.name: x for x in stage.programs(where.devices)}
  whole, rest = (
    calls[f'lira (pooled), 3 columns{more}'] for more in ('', ', of others')
  )
  # Plain and strong.
  assert (whole.calls, rest.calls) == (2, 2 * 4)
  assert whole.args[0].shape[0] == 8 and rest.args[0].shape[0] == 6
  few = plans_lib.make(config()).stage('membership').programs(where.devices)
  assert not [x for x in few if 'lira' in x.name or 'rmia' in x.name]


def test_calls_are_those_of_the_run(found):
  plans, by_name = found
  train, sample = plans.subject.train, plans.subject.sample
  assert by_name['train: step'].calls == train.num_steps
  assert by_name['train: initialisation'].calls == 2
  assert by_name['sampler'].calls == sample.num_samples // sample.batch_size


def test_operations_are_those_that_the_cpu_compiler_counts(found):
  plans, by_name = found
  train = subjects.given(plans.subject.train)
  grid = mesh_lib.make(1, jax.devices()[:1])
  keep = train.examples.keep[:1]
  step = loop.make_step_fn(train, grid, keep)
  counted = step.lower(*loop.step_args(train, grid, keep)).cost_analysis()
  # Each of two chips has half of the batch.
  assert 2 * by_name['train: step'].facts.flops < counted['flops']


def test_a_second_time_comes_from_the_cache(found, where, monkeypatch):
  plans, by_name = found
  monkeypatch.setattr(preflight, '_compiled', None)
  again = {each.program: each for each in preflight.check(plans, where)}
  assert again == by_name


def test_a_damaged_record_is_made_again(found, where, tmp_path, monkeypatch):
  plans, by_name = found
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  one = dataclasses.replace(
    plans, stages=tuple(s for s in plans.stages if s.name == 'nearest_sample')
  )
  first = list(preflight.check(one, where))
  for path in (tmp_path / 'jaxdiff' / 'preflight').iterdir():
    path.write_text('{"facts": {"flops": 1}}')
  second = list(preflight.check(one, where))
  assert [x.facts for x in first] == [x.facts for x in second]


def test_what_does_not_fit_is_refused_with_what_does(found, where):
  """A chip made so small that half of the batch is all it can hold."""
  plans, by_name = found
  sampler = by_name['sampler']
  chip = dataclasses.replace(where.chip, memory=sampler.bytes - 1)
  small = dataclasses.replace(where, chip=chip)
  assert not preflight.fits(sampler, small)
  assert 'TOO MUCH' in preflight_text.line(sampler, small)
  change = preflight.mend(config(), plans_lib.make, sampler, small)
  assert change == {'sample.batch_size': 16}
  refused = preflight_text.refusal(
    plans.stage('sample'), sampler, change, small
  )
  assert refused.startswith('sampler: ')
  assert refused.endswith('set sample.batch_size=16, with which it fits')
  nothing = dataclasses.replace(
    where, chip=dataclasses.replace(chip, memory=1000.0)
  )
  assert preflight.mend(config(), plans_lib.make, sampler, nothing) is None
  refused = preflight_text.refusal(
    plans.stage('sample'), sampler, None, nothing
  )
  assert 'tried: sample.batch_size' in refused


def test_the_file_has_every_number(found, where, tmp_path):
  _, by_name = found
  run = layout.Run(layout.folder(str(tmp_path)))
  preflight.write(run, config(), [(where, list(by_name.values()))])
  document = json.loads((tmp_path / 'preflight.json').read_text())
  (written,) = document['slices']
  assert written['chips'] == 4
  rows = {row['program']: row for row in written['programs']}
  assert rows.keys() == by_name.keys()
  step = rows['train: step']
  assert step['fits']
  assert step['seconds'] == pytest.approx(
    step['facts']['cycles'] / where.chip.clock
  )
  total = sum(row['seconds'] * row['calls'] for row in rows.values())
  assert written['hours'] == pytest.approx(total / 3600)


@pytest.mark.parametrize('name', ['v5e:3x5', 'v9:2x2', 'nonsense', ''])
def test_a_slice_that_is_not_known_is_refused(name):
  with pytest.raises(inputs.InputError, match='--compile_for: '):
    preflight.slice_of(name)


@pytest.mark.parametrize(
  ('name', 'chips'),
  [('v4:2x2x1', 4), ('v5p:2x2x1', 4), ('v6e:2x4', 8), ('v5e:16x16', 256)],
)
def test_a_device_is_a_chip(name, chips):
  where = preflight.slice_of(name)
  assert len(where.devices) == chips
  assert len({tuple(x.coords) for x in where.devices}) == chips
  units = {'v4': 8, 'v5': 8, 'v6': 16, 'v5e': 4}[
    'v5e' if name.startswith('v5e') else name[:2]
  ]
  assert np.isclose(where.chip.clock * units * 2 * 128**2, where.chip.peak)


def test_a_number_of_models_that_shares_fewer_chips_is_told(where):
  plans = plans_lib.make(config(num_models=8, train__models_per_block=2))
  assert preflight_text.advice(plans, where) == (
    'v5e:2x2: 2 devices share a model of 2 at a time: with '
    '--config.train.models_per_block=4 it is 1, and each has more to do'
  )
  for keys in (
    {'train__models_per_block': 4},
    {'train__models_per_block': 2, 'train__devices_per_model': 2},
    # All models are worked on already; and three divide no better than one.
    {'num_models': 2, 'train__models_per_block': 8},
    {'num_models': 3, 'train__models_per_block': 2, 'split': 'independent'},
  ):
    plans = plans_lib.make(config(**({'num_models': 8} | keys)))
    assert preflight_text.advice(plans, where) == '', keys


def test_devices_that_do_not_divide_are_refused_and_not_proposed(where):
  plans = plans_lib.make(config(train__devices_per_model=3))
  with pytest.raises(inputs.InputError, match='train.devices_per_model: 3'):
    list(preflight.check(plans, where))
  odd = plans_lib.make(config(signals__batch_size=31))
  with pytest.raises(inputs.InputError, match='signals.batch_size: 31'):
    list(preflight.check(odd, where))


def test_slots_that_wait_and_are_joined_are_counted(where):
  plans = plans_lib.make(config(num_models=8))
  train = [s for s in plans.stages if s.name == 'train'][0]
  _, step, joined = train.programs(where.devices)
  state = programs.bytes_of(step.args[0])
  assert step.held == state and step.calls == 2 * plans.subject.train.num_steps
  assert joined.argument_bytes == 2 * state and joined.calls == 2
  found = preflight._compile('train', joined, where)
  assert found.bytes > 4 * state


def test_every_stage_says_what_it_compiles(where):
  """Of a run with every attack; lowered, which checks every shape."""
  plans = plans_lib.make(tiny.paper(extraction__tiles=2))
  names = {}
  for stage in plans.stages:
    for program in stage.programs(where.devices):
      lowered = program.lower()
      assert program.calls > 0 or 'pruned' in program.name
      names.setdefault(stage.name, []).append(program.name)
      assert len(lowered.in_avals[0]) == len(program.args)
  assert names.keys() >= {
    'train', 'sample', 'membership', 'extraction', 'nearest_sample',
    'inpainting', 'side', 'canaries',
  }  # fmt: skip
  assert names['inpainting'] == ['inpainting', 'inpainting losses']
  assert names['canaries'] == [
    'canaries: initialisation', 'canaries: step', 'canaries: losses',
  ]  # fmt: skip
  assert names['side'][:2] == ['surrogates: step', 'guided sampler']
  assert 'neighbours, training: by tiles' in names['extraction']


def test_tiles_of_a_prompt_compile(where):
  (program,) = tiled_distance.programs_of(
    'tiles', 100, (64, 64, 3), 4, list(where.devices), 7.0
  )
  found = preflight._compile('prompts', program, where)
  assert preflight.fits(found, where)
  # The upper half by blocks is three quarters of 128 x 128, filled up.
  assert program.calls == 7.0 * 16 / 4
  assert found.facts.flops == 2 * 128**2 * 16 * 16 * 3 * 3 / 4


def test_one_host_stands_in_for_one_of_many():
  where = preflight.slice_of('v5e:4x4')
  assert programs.num_processes(where.devices) == 4
  own = programs.of_one_process(where.devices)
  assert len(own) == 4 and {x.process_index for x in own} == {0}
  assert {x.device_kind for x in own} == {'TPU v5 lite'}


COMMAND = (
  '--config=configs/digits.py', '--config.num_models=2',
  '--config.num_samples=1024', '--config.model.block_out_channels=(8,)',
  "--config.model.down_block_types=('DownBlock2D',)",
  "--config.model.up_block_types=('UpBlock2D',)",
  '--config.model.norm_num_groups=4',
)  # fmt: skip


def launch(folder, *flags):
  return subprocess.run(
    [sys.executable, '-m', 'launch.audit', *COMMAND, f'--workdir={folder}']
    + list(flags),
    cwd=processes.ROOT, capture_output=True, text=True, timeout=300,
  )  # fmt: skip


def test_the_command_prints_a_line_a_program_and_leaves_a_file(tmp_path):
  folder = tmp_path / 'run'
  done = launch(
    folder, '--dry_run', '--compile_for=v5e:2x2', '--compile_for=v4:2x2x1',
    '--compile_stages=nearest_sample',
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  lines = done.stdout.splitlines()
  for name in ('v5e:2x2', 'v4:2x2x1'):
    assert any(x.startswith(f'{name} nearest samples: propose') for x in lines)
    assert any(x.startswith(f'{name}: ') and 'chip-hours' in x for x in lines)
  assert lines[-1] == f'preflight: {folder}/preflight.json'
  document = json.loads((folder / 'preflight.json').read_text())
  assert [x['name'] for x in document['slices']] == ['v5e:2x2', 'v4:2x2x1']
  # A run may start where its preflight lies.
  opening.open_run(str(folder), {'seed': 0})


@pytest.mark.parametrize(
  ('flags', 'line'),
  [
    (['--compile_for=v5e:2x2'], '--compile_for goes with --dry_run'),
    (
      ['--dry_run', '--compile_for=v5e:2x2', '--compile_stages=nothing'],
      "--compile_stages: no 'nothing'; there is train, sample",
    ),
    (['--dry_run', '--compile_for=v5e'], '--compile_for: no slice v5e: give'),
  ],
)
def test_flags_that_make_no_sense_are_refused_in_one_line(
  flags, line, tmp_path
):
  done = launch(tmp_path / 'run', *flags)
  assert done.returncode == 2
  assert done.stderr.splitlines()[-1].startswith(f'jaxdiff: {line}')
  assert not (tmp_path / 'run').exists()


OPEN = """
import sys
sys.stdin.readline()
from jaxdiff.runtime import topologies
print(len(topologies.devices('v5e:2x2')))
sys.stdin.readline()
"""


def test_two_processes_may_compile_at_a_time():
  """The compiler's library alone would lock the other out."""
  both = [
    subprocess.Popen(
      [sys.executable, '-c', OPEN],
      stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
      cwd=processes.ROOT, env=without_tpu_names(),
    )
    for _ in range(2)
  ]  # fmt: skip
  for process in both:
    process.stdin.write('go\n')
    process.stdin.flush()
  # Both hold it before either ends.
  assert [process.stdout.readline().strip() for process in both] == ['4', '4']
  for process in both:
    process.communicate('end\n', timeout=60)


def without_tpu_names() -> dict[str, str]:
  """An environment in which nobody has said anything of TPUs."""
  return {
    name: value
    for name, value in os.environ.items()
    if not name.startswith('TPU_') and name != 'ALLOW_MULTIPLE_LIBTPU_LOAD'
  }


def test_programs_for_elsewhere_are_not_left_in_jax_s_own_cache(
  found, where, tmp_path, monkeypatch
):
  """It could not load them again."""
  name = 'jax_persistent_cache_min_compile_time_secs'
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  before = getattr(jax.config, name)
  asked = []
  monkeypatch.setattr(
    jax.stages.Lowered, 'compile',
    lambda self: asked.append(getattr(jax.config, name)) or 1 / 0,
  )  # fmt: skip
  with pytest.raises(ZeroDivisionError):
    list(preflight.check(found[0], where))
  assert asked == [np.inf] and getattr(jax.config, name) == before
