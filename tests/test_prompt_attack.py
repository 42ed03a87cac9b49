"""The attack on prompts, on small pipelines of every kind, stage by stage."""

import json
import sys

import jax
import numpy as np
from PIL import Image
import pytest

from jaxdiff import inputs
from jaxdiff import plans as plans_lib
from jaxdiff.attacks.prompts import paths, screen, screens, stream
from jaxdiff.pipeline import dry_run, redraw, stages
from jaxdiff.runs import files
from tests import captioned, processes
from tests.interop import test_pipeline as folders
from tests.sampling import test_prompted

pytestmark = pytest.mark.slow

HELD_OUT = ('three mice', 'a river at night, seen from above', 'some boats')


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  folder = tmp_path_factory.mktemp('attack')
  for kind in folders.KINDS:
    folders.write(folder / kind, kind)
  (folder / 'prompts.txt').write_text('\n'.join(captioned.PROMPTS))
  (folder / 'held_out.txt').write_text('\n'.join(HELD_OUT))
  captioned.write_folder(folder / 'training', 20, 0)
  captioned.write_folder(folder / 'holdout', 20, 1)
  return folder


def config_of(root, kind, **keys):
  return captioned.config_of(
    root / kind,
    **{
      'prompts': str(root / 'prompts.txt'), 'num_seeds': 0,
      'held_out_prompts': str(root / 'held_out.txt'),
      'screen__kinds': screens.SCREENS, 'screen__num_steps': 2,
      'screen__num_seeds': 2, 'screen__block_size': 4,
      # Nets of random weights draw noise: within this all is alike.
      'stream__num_seeds': 4, 'stream__block_size': 2, 'cliques__tau': 0.5,
      'cliques__min_size': 3, 'stream__kept': 2,
    }
    | keys,
  )  # fmt: skip


@pytest.mark.parametrize('kind', folders.KINDS)
def test_every_kind_goes_through_every_stage(root, kind, tmp_path):
  config = config_of(root, kind)
  run = stages.run_stages(
    config, str(tmp_path / 'run'), fail_if=['stream.found > 100']
  )
  table = files.read_csv(paths.Paths(run).screens)
  assert len(table) == 6 and np.isfinite(table[list(screens.SCREENS)]).all(
    axis=None
  )
  assert table['trained'].tolist() == [-1] * 3 + [0] * 3
  # Both files number their lines: ids that are there already are others.
  assert table['id'][3] == 'held_out_prompts-0'
  assert table['p_x0'][:3].between(0.25, 1.0).all()
  assert table['p_x0'][3:].isna().all()
  drawn = files.read_csv(paths.Paths(run).table)
  assert sorted(drawn['number']) == list(range(6))
  assert (drawn['num_images'] == 4).all() and drawn['found'].any()
  assert not (run.path / 'samples' / 'model-000').exists()
  text = run.report.read_text()
  assert 'Memorised prompts' in text and 'Screens' in text
  document = json.loads((run.path / 'report.json').read_text())
  assert document['policies'][0]['status'] == 'pass'
  # An image that was kept is made again by its id and seed: to a level of
  # 8 bits, in another batch.
  row = drawn[drawn['found'] > 0].iloc[0]
  out = tmp_path / 'again.png'
  redraw.draw(
    config, str(run.path), str(row['id']), int(row['medoid']), 0, str(out)
  )
  kept = paths.Paths(run).picture(0, int(row['number']), int(row['medoid']))
  far = np.asarray(Image.open(out), int) - np.asarray(Image.open(kept), int)
  assert np.abs(far).max() <= 1
  with pytest.raises(inputs.InputError, match='exists'):
    redraw.draw(config, str(run.path), '0', 0, 0, str(out))
  with pytest.raises(inputs.InputError, match='no seventeen; ids are'):
    redraw.draw(
      config, str(run.path), 'seventeen', 0, 0, str(tmp_path / 'x.png')
    )


def test_captions_of_training_images_are_screened_and_verified(root, tmp_path):
  config = config_of(
    root, 'sd1', prompts='captions', held_out_prompts='',
    training=str(root / 'training'), holdout=str(root / 'holdout'),
    signals__kinds=('loss',),
  )  # fmt: skip
  run = stages.run_stages(config, str(tmp_path / 'run'))
  table = files.read_csv(paths.Paths(run).screens)
  both = set(table['trained'])
  assert {0, 1} <= both and (table['copies'] > 0).all()
  verified = files.read_csv(paths.Paths(run).verified)
  assert len(verified) == files.read_csv(paths.Paths(run).table)['found'].sum()
  assert (verified['distance'] > 0.15).all() and not verified['extracted'].any()
  row = files.read_csv(paths.Paths(run).precision).iloc[0]
  assert row['num_training'] + row['num_control'] == 40
  # What a person says of them is counted; what is no verdict is refused.
  said = paths.Paths(run).annotations
  numbers = verified['number'].tolist()
  said.write_text(f'model,number,memorised\n0,{numbers[0]},yes\n')
  stages.run_stages(config, str(tmp_path / 'run'), ['attack', 'report'])
  again = files.read_csv(paths.Paths(run).verified)
  assert again['memorised'].dropna().tolist() == [1] and len(again) > 1
  assert 'has verdicts on 1 of these cliques' in run.report.read_text()
  said.write_text('model,number,memorised\n0,4000,yes\n')
  with pytest.raises(inputs.InputError, match='line 2: number is .4000.'):
    stages.run_stages(config, str(tmp_path / 'run'), ['attack', 'report'])
  said.unlink()
  # A threshold that held-out prompts allow is asked for afterwards: nothing is
  # drawn again, and fewer of them are found.
  before = files.read_csv(paths.Paths(run).totals).set_index('kind')
  config.cliques.false_alarm = 0.2
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(stream, 'scan', None)
    stages.run_stages(config, str(tmp_path / 'run'), ['attack', 'report'])
  after = files.read_csv(paths.Paths(run).totals).set_index('kind')
  assert before.loc['held_out', 'value'] > 0.2
  assert after.loc['held_out', 'value'] < 0.2
  assert after.loc['held_out', 'tau'] < before.loc['held_out', 'tau']
  assert 'Memorised prompts against training images' in run.report.read_text()


def test_two_processes_work_apart_and_write_the_same_tables(root, tmp_path):
  keys = {
    'model': root / 'sd1', 'prompts': root / 'prompts.txt', 'num_seeds': 0,
    'held_out_prompts': root / 'held_out.txt',
    'screen.kinds': ('x0', 'agreement'), 'screen.num_steps': 2,
    'screen.num_seeds': 2, 'screen.block_size': 2, 'stream.num_seeds': 4,
    'stream.block_size': 2, 'cliques.tau': 0.5, 'cliques.min_size': 3,
    'sample.num_steps': 4, 'sample.guidance_scale': 3.0,
    'sample.batch_size': 4, 'membership.num_resamples': 40,
  }  # fmt: skip
  given = [f'--config.{name}={value}' for name, value in keys.items()]

  def command(folder, *flags):
    return [
      sys.executable, '-m', 'launch.audit',
      '--config=configs/pipeline.py', f'--workdir={folder}', '--cpu_devices=1',
      *given, *flags,
    ]  # fmt: skip

  whole = tmp_path / 'whole'
  assert test_prompted.start(command(whole)).wait() == 0
  address = processes.free_address()
  both = tmp_path / 'both'
  started = [
    test_prompted.start(
      command(
        both, f'--coordinator={address}', '--num_processes=2',
        f'--process_id={number}',
      )
    )
    for number in range(2)
  ]  # fmt: skip
  assert [one.wait() for one in started] == [0, 0]
  for name in ('screens.csv', 'prompts.csv', 'summary.csv'):
    first, second = (x / 'prompts' / name for x in (whole, both))
    assert first.read_bytes() == second.read_bytes(), name


def test_programs_are_those_that_run_and_their_work_is_counted(root):
  plans = plans_lib.make(config_of(root, 'sdxl'))
  estimate = dry_run.make(plans)
  calls = {}
  for name in ('screen', 'stream'):
    found = plans.stage(name).programs(jax.devices()[:1])
    for program in found:
      program.lower().compile()
    calls[name] = {each.name: each.calls for each in found}
  assert calls['screen'] == {
    'encode': 3, 'screens of one call': 2, 'screens of 2 steps': 3,
    'screens of 1 steps': 3, 'decode': 6,
  }  # fmt: skip
  # Three blocks of two prompts and the empty one; of four images each.
  assert calls['stream']['denoise'] == 6
  plan = plans.plan('screen')
  assert isinstance(plan, screen.ScreenPlan)
  assert plan.rows() == 3 + 2 * 2 * 2 + 2 * 2
  assert plan.calls()['x0'] == 1 and plan.calls()['agreement'] == 8
  streamed = plans.plan('stream')
  assert isinstance(streamed, stream.StreamPlan)
  assert streamed.rows() == 4 * streamed.prompted.num_steps * 2
  flops = estimate.costs['stream'].flops
  assert flops > 6 * streamed.rows() * estimate.units.network_flops
  assert estimate.units.decode_flops > 0 and estimate.units.encode_flops > 0
  said = '\n'.join(dry_run.lines(plans, estimate, 0.5))
  for words in (
    'assumed: 50% of the bfloat16 peak', 'v5e-256', 'v6e-256', '8 H100',
    'stream at 5 steps of DDIM', '24 images are', 'screen agreement: ',
    'of attacking all',
  ):  # fmt: skip
    assert words in said, words
  # By hand: half of the peak of 256 chips of 197 TFLOP/s.
  hours = flops / (0.5 * 256 * 197e12) / 3600
  assert f'stream: {hours:.3g} h on v5e-256' in said


@pytest.mark.parametrize(
  ('keys', 'words'),
  [
    ({'screen__kinds': ('x0', 'y0')}, 'screen.kinds: no y0; there is x0, dcs'),
    ({'screen__kinds': ('x0', 'x0')}, 'screen.kinds: names one twice'),
    ({'screen__num_steps': 2000}, 'screen.num_steps: num_steps: 2000 is not'),
    ({'stream__num_seeds': 2}, 'hold no clique of 3'),
    ({'stream__first': 4}, 'stream.first: 4 is not within 2 .. 3'),
    ({'stream__by': 'nobody'}, "stream.by: no 'nobody' is among screen.kinds"),
    ({'stream__by': 'x0', 'stream__top': 0.0}, 'stream.top: 0 chooses no'),
    ({'prompts': 'captions'}, "'captions' are those of training images"),
    ({'prompts': ''}, 'prompts: name what is drawn'),
    ({'cliques__grid': 64}, 'cliques.grid: 64 tiles leave nothing'),
    (
      {'held_out_prompts': '/nowhere.txt'},
      'held_out_prompts: no file /nowhere.txt',
    ),
  ],
)
def test_bad_values_are_one_line(root, keys, words):
  with pytest.raises(inputs.InputError, match=words) as error:
    plans_lib.make(config_of(root, 'sd1', **keys))
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  ('keys', 'words'),
  [
    ({'verify__eidetic_shift': 64}, 'verify.eidetic_shift: 64 leaves nothing'),
    ({'prompts': ''}, 'screen.kinds: is about prompts'),
    ({'prompts': '', 'screen__kinds': ()}, 'stream.num_seeds: is about'),
  ],
)
def test_bad_values_beside_images_are_one_line(root, keys, words):
  config = config_of(
    root, 'sd1', training=str(root / 'training'), holdout='',
    held_out_prompts='', **keys,
  )  # fmt: skip
  with pytest.raises(inputs.InputError, match=words):
    plans_lib.make(config)


def test_a_held_out_prompt_is_no_caption_of_training(root, tmp_path):
  names = (root / 'training' / 'metadata.csv').read_text().splitlines()
  caption = names[1].partition(',')[2].upper()
  path = tmp_path / 'held.txt'
  path.write_text(f'{caption}\nanother')
  with pytest.raises(inputs.InputError, match='captions of training'):
    plans_lib.make(
      config_of(
        root,
        'sd1',
        training=str(root / 'training'),
        holdout='',
        held_out_prompts=str(path),
      )  # fmt: skip
    )


def test_a_prompt_on_both_sides_is_refused(root, tmp_path):
  path = tmp_path / 'held.txt'
  path.write_text(f'{captioned.PROMPTS[1].upper()}\nanother')
  with pytest.raises(inputs.InputError, match='THE MOON OVER WATER is among'):
    plans_lib.make(config_of(root, 'sd1', held_out_prompts=str(path)))
