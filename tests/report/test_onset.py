"""When memorisation begins: known courses, open ends, what is refused."""

import numpy as np
import pandas as pd
import pytest

from configs import captioned, digits_gan
from jaxdiff import inputs
from jaxdiff.report import onset
from jaxdiff.runs import files, layout
from tests import tiny

METRIC = 'share extracted'


def course(begins, steps=(100, 200, 400, 800, 1600), spread=0.02):
  """Nothing is extracted up to a step, and nearly everything after it."""
  value = np.where(np.asarray(steps) >= begins, 0.9, 0.0)
  return pd.DataFrame({
    'step': steps, 'metric': METRIC, 'value': value,
    'low': np.maximum(value - spread, 0.0), 'high': value + spread,
  })  # fmt: skip


def test_a_step_lies_between_what_is_known():
  low, step, high = onset.of_steps(course(400), 0.1)
  assert (low, high) == (200.0, 400.0)
  assert step == pytest.approx(np.sqrt(200 * 400))


def test_what_is_not_sure_widens_the_range():
  table = course(400)
  table.loc[1, 'high'] = 0.3  # at 200, it may have begun
  table.loc[2, 'low'] = 0.05  # at 400, it may not
  low, step, high = onset.of_steps(table, 0.1)
  assert (low, high) == (100.0, 800.0)
  assert step == pytest.approx(np.sqrt(200 * 400))
  # Without intervals nothing is sure.
  table[['low', 'high']] = np.nan
  assert onset.of_steps(table, 0.1)[::2] == (0.0, np.inf)


def test_what_has_begun_already_or_never_does_is_said():
  with pytest.raises(ValueError, match='smaller train.checkpoint_every'):
    onset.of_steps(course(50), 0.1)
  with pytest.raises(ValueError, match='up to step 1600: train longer'):
    onset.of_steps(course(5000), 0.1)


@pytest.mark.parametrize('power', [0.0, 0.5, 1.0, 2.0])
def test_a_power_law_is_found(power):
  images = np.array([64, 128, 256, 512])
  step = 3.0 * images**power
  table = pd.DataFrame({
    'images': images, 'step': step, 'low': step / 1.1, 'high': step * 1.1,
  })  # fmt: skip
  found = onset.slope(table)
  assert found.value == pytest.approx(power, abs=1e-9)
  # All choices of the ends, one by one.
  x = np.log(images)
  slopes = []
  for corner in range(2 ** len(images)):
    high = (corner >> np.arange(len(images))) & 1 == 1
    ends = np.where(high, table['high'], table['low'])
    slopes.append(np.polyfit(x, np.log(ends), 1)[0])
  assert found.low == pytest.approx(min(slopes))
  assert found.high == pytest.approx(max(slopes))


def runs(tmp_path, begin, **changes):
  out = {}
  for count, begins in begin.items():
    run = layout.Run(layout.folder(str(tmp_path / f'n{count}')))
    config = tiny.config(data__num_examples=count, **changes).to_dict()
    files.write_json(run.config, config)
    files.write_csv(run.examples, pd.DataFrame({'image': np.arange(count)}))
    files.write_csv(run.steps_table, course(begins))
    out[run.path.name] = run
  return out


def test_a_page_from_runs(tmp_path):
  made = runs(tmp_path, {128: 800, 32: 200, 64: 400})
  page = onset.write(made, METRIC, 0.1, layout.folder(str(tmp_path / 'out')))
  table = files.read_csv(page.parent / 'onset.csv')
  assert tuple(table.columns) == onset.COLUMNS
  assert table['images'].tolist() == [16, 32, 64]
  batch = files.read_json(made['n32'].config)['train']['batch_size']
  np.testing.assert_allclose(
    table['passes'], table['step'] * batch / [16, 32, 64]
  )
  text = page.read_text()
  assert 'to the power 1.00' in text and 'growth in proportion' in text
  made = runs(tmp_path / 'b', {128: 400, 32: 400})
  page = onset.write(made, METRIC, 0.1, layout.folder(str(tmp_path / 'out')))
  assert 'to the power 0.00' in page.read_text()
  assert 'surely slower than in proportion' in page.read_text()


def test_words_follow_from_the_range():
  table = pd.DataFrame({'passes': [3.0, 4.0]})
  say = lambda *ends: ' '.join(
    onset.in_words(table, onset.Slope(*ends), METRIC, 0.1)
  )
  assert 'agrees with growth in proportion' in say(0.9, 0.7, 1.2)
  assert 'agrees with growth in proportion' in say(1.5, 1.0 + 1e-15, 2.0)
  assert 'surely slower' in say(0.5, 0.3, 0.8)
  assert 'surely faster' in say(1.5, 1.1, 1.8)
  assert 'One end is open' in say(0.9, -np.inf, 1.2)


@pytest.mark.parametrize(
  ('begin', 'changes', 'said'),
  [
    ({32: 200}, {}, 'two runs at least'),
    ({32: 200, 64: 5000}, {}, 'n64: share extracted: it never is'),
    ({32: 200, 64: 50}, {}, 'n64: share extracted: it is above'),
  ],
)
def test_what_says_nothing_is_refused(tmp_path, begin, changes, said):
  with pytest.raises(inputs.InputError, match=said):
    onset.write(
      runs(tmp_path, begin, **changes), METRIC, 0.1,
      layout.folder(str(tmp_path / 'out')),
    )  # fmt: skip


@pytest.mark.parametrize(
  ('changes', 'differ'),
  [
    ({'train__learning_rate': 0.5}, 'train.learning_rate'),
    ({'num_samples': 999}, 'num_samples'),
    ({'train__decay': 'cosine', 'train__num_steps': 50}, 'train.decay'),
    ({'model__init_from': 'x'}, 'model.init_from'),
    # What changes no step, nor how it is attacked.
    ({'train__num_steps': 50, 'train__stop_at': 30, 'num_models': 4}, ''),
    ({'data__device_megabytes': 7}, ''),
    ({'data__path': 'elsewhere'}, 'data.path'),
  ],
)
def test_runs_that_differ_in_more_are_refused(tmp_path, changes, differ):
  made = runs(tmp_path, {32: 200}) | runs(tmp_path, {64: 400}, **changes)
  if not differ:
    onset.check(made)
    return
  with pytest.raises(inputs.InputError, match=f'differ in {differ}'):
    onset.check(made)


def test_steps_of_a_cosine_rate_are_others(tmp_path):
  made = runs(tmp_path, {32: 200}, train__decay='cosine')
  made |= runs(tmp_path, {64: 400}, train__decay='cosine', train__num_steps=50)
  with pytest.raises(inputs.InputError, match='differ in train.num_steps'):
    onset.check(made)


def test_gans_and_known_sets_are_compared_and_prompts_are_not(tmp_path):
  made = runs(tmp_path, {32: 200}) | runs(tmp_path, {64: 400})
  for number, run in enumerate(made.values()):
    config = digits_gan.get_config()
    config.data.num_examples = 32 * (number + 1)
    config.train.decay = 'constant'
    config.data.name, config.data.path = 'fashion_mnist', f'folder{number}'
    files.write_json(run.config, config.to_dict())
  onset.check(made)
  files.write_json(run.config, captioned.get_config().to_dict())
  with pytest.raises(inputs.InputError, match='are by prompt'):
    onset.check(made)


def test_what_a_run_lacks_is_named(tmp_path):
  made = runs(tmp_path, {32: 200})
  again = {**made, 'again': next(iter(made.values()))}
  with pytest.raises(inputs.InputError, match='equally many images'):
    onset.onsets(again, METRIC, 0.1)
  made = runs(tmp_path, {32: 200, 64: 400})
  with pytest.raises(inputs.InputError, match='has no share lost; there is'):
    onset.onsets(made, 'share lost', 0.1)
  made['n64'].steps_table.unlink()
  with pytest.raises(inputs.InputError, match='n64 has no steps.csv'):
    onset.check(made)


def test_an_open_end_in_the_middle_leaves_the_slope_alone():
  for images in ([50, 100, 200], [64, 128, 256], [250, 500, 1000]):
    table = pd.DataFrame({
      'images': images, 'step': [100.0, 200.0, 400.0],
      'low': [90.0, 0.0, 360.0], 'high': [110.0, np.inf, 440.0],
    })  # fmt: skip
    found = onset.slope(table)
    assert found.value == pytest.approx(1.0)
    assert 0.7 < found.low < 1.0 < found.high < 1.3


def test_a_value_beside_its_own_interval():
  table = course(400)
  table.loc[1, ['value', 'high']] = 0.12, 0.08
  low, step, high = onset.of_steps(table, 0.1)
  assert low <= step <= high
