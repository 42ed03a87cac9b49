"""Damages one file of a finished run, gives the command again, compares.

    launch/local.sh python -m tests.tools.damage_run [--short]

One tiny run (tests/tiny.py, half of its samples planted so that some images are
given away, two annotations) is finished once. Then for one file of every kind
in its folder, and every damage, a copy is damaged and audited, and another copy
is damaged and reported on alone. Afterwards every table, report.html and
pairs.png must hold the bytes that they held, or the command must refuse in one
line, no table but the damaged one being another. Faults:

    differs    a table or the report came out otherwise, or another table was
               changed before the command refused
    stands     all else is the same, but the damaged table stands, and no word
    traceback  anything but the errors that launchers say in one line
    unclear    that line is several, or has control characters

`kept` is none: nothing came out otherwise, but the damage is still there. What
launchers say of an OSError ("make room or mend it") is counted as os_error.
A changed annotations.csv may change what is derived from it.

Damages: half (cut), bit (one flipped), empty, removed, folder (in its place),
swapped (with another file of its kind), digit (another one, of a table).

One JSON line a case, then one with all counts; exits with 1 on a fault.

    --short         a seeded sample of --cases cases
    --only=REGEX    cases `KIND DAMAGE STAGES` that match, from their start
    --paper         a run with every attack there is (minutes more)
    --keep=FOLDER   keep the finished run there, for next time
"""

import argparse
import collections
from collections.abc import Callable, Sequence
import contextlib
import dataclasses
import hashlib
import io
import json
import os
import pathlib
import pickle
import random
import re
import shutil
import sys
import tempfile
import time
import traceback
from typing import Any
from unittest import mock

# Before JAX, which reads it once.
if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
  os.environ['JAX_COMPILATION_CACHE_DIR'] = str(
    pathlib.Path(tempfile.gettempdir()) / f'jaxdiff-cache-{os.getuid()}'
  )
  os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0.1'
os.environ.setdefault('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')
os.environ.setdefault('JAX_PLATFORMS', 'cpu')

from absl import logging
import jax
import jax.numpy as jnp

from jaxdiff import inputs
from jaxdiff import plans as plans_lib
from jaxdiff.data import datasets
from jaxdiff.pipeline import stages as stages_lib
from jaxdiff.report import figures, followups
from jaxdiff.report.sections import canaries, inpainting
from jaxdiff.runtime import mesh
from tests import tiny

STAGES = {'audit': stages_lib.VERBS, 'report': ('report',)}
FAULTS = ('differs', 'stands', 'traceback', 'unclear')
# Results, by what they are called; all else is evidence, weights or logs.
_RESULTS = re.compile(
  r'(?!logs/|(.*/)?models-[^/]*/).*(\.csv|report\.html|\.png)$'
)
_OF_ANNOTATIONS = ('annotations.csv', 'extraction/annotated.csv', 'report.html')


def config(paper: bool):
  """Four nets, two checkpoints, two blocks of everything."""
  make = tiny.paper if paper else tiny.config
  return make(
    num_models=4,
    data__num_examples=48,
    train__num_steps=10,
    train__checkpoint_every=5,
    membership__num_resamples=40,
    signals__block_size=32,
  )


def planted(c, plans: plans_lib.Plans) -> plans_lib.Plans:
  """The same, but that every other sample is an example."""
  images = jnp.asarray(datasets.to_model_range(plans.dataset.images))
  drawn = plans.subject.sample.sample_fn

  def sample_fn(params, key, indices, cond):
    own = drawn(params, key, indices, cond)
    given = images[indices % len(images)].astype(own.dtype)
    return jnp.where((indices % 2 == 0)[:, None, None, None], given, own)

  subject = dataclasses.replace(
    plans.subject,
    sample=dataclasses.replace(plans.subject.sample, sample_fn=sample_fn),
  )
  stages, _ = plans_lib.make_stages(c, subject)
  return dataclasses.replace(plans, subject=subject, stages=stages)


def remembered(function: Callable[..., Any]) -> Callable[..., Any]:
  """A figure is drawn once for equal arguments: drawing is what takes long."""
  known = {}

  def call(*args, **kwargs):
    key = hashlib.sha256(pickle.dumps((args, kwargs))).digest()
    if key not in known:
      known[key] = function(*args, **kwargs)
    return known[key]

  return call


@contextlib.contextmanager
def quick(plans: plans_lib.Plans):
  """Plans made once, so that nothing is compiled twice; figures too."""
  drawn = (
    (figures, ('roc', 'timesteps', 'extraction', 'distances', 'training',
               'study')),
    (followups, ('copies_figure',)),
    (inpainting, ('scatter',)),
    (canaries, ('exposure',)),
  )  # fmt: skip
  with contextlib.ExitStack() as stack:
    stack.enter_context(
      mock.patch.object(plans_lib, 'make', lambda *args, **kwargs: plans)
    )
    for module, names in drawn:
      for name in names:
        if hasattr(module, name):
          stack.enter_context(
            mock.patch.object(module, name, remembered(getattr(module, name)))
          )
    yield


def kind_of(name: str) -> str:
  """'samples/model-N/N.npz' for every block of samples."""
  name = re.sub(r'/[0-9a-f]{32}$', '/HEX', name)
  name = re.sub(r'tfevents\..*', 'tfevents', name)
  return re.sub(r'\d+', 'N', name)


def kinds(folder: pathlib.Path) -> dict[str, list[str]]:
  """Files of a run by kind; of checkpoints, those of the newest."""
  out = collections.defaultdict(list)
  for path in sorted(folder.rglob('*')):
    if path.is_file():
      name = str(path.relative_to(folder))
      out[kind_of(name)].append(name)
  for kind, names in out.items():
    if 'checkpoints' in kind:
      steps = [int(re.findall(r'checkpoints/\D*(\d+)', x)[0]) for x in names]
      out[kind] = [
        name
        for name, step in zip(names, steps, strict=True)
        if step == max(steps)
      ]
  return dict(out)


# Damages: (path, another of its kind, rng)


def half(path: pathlib.Path, other, rng: random.Random) -> None:
  content = path.read_bytes()
  path.write_bytes(content[: len(content) // 2])


def bit(path: pathlib.Path, other, rng: random.Random) -> None:
  content = bytearray(path.read_bytes())
  content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
  path.write_bytes(content)


def empty(path: pathlib.Path, other, rng: random.Random) -> None:
  path.write_bytes(b'')


def removed(path: pathlib.Path, other, rng: random.Random) -> None:
  path.unlink()


def a_folder(path: pathlib.Path, other, rng: random.Random) -> None:
  path.unlink()
  path.mkdir()


def swapped(
  path: pathlib.Path, other: pathlib.Path, rng: random.Random
) -> None:
  one, two = path.read_bytes(), other.read_bytes()
  path.write_bytes(two)
  other.write_bytes(one)


def digit(path: pathlib.Path, other, rng: random.Random) -> None:
  """Another digit somewhere below the head of a table."""
  head, line, body = path.read_text().partition('\n')
  places = [match.start() for match in re.finditer(r'\d', body)]
  at = rng.choice(places)
  new = str((int(body[at]) + rng.randrange(1, 10)) % 10)
  path.write_text(head + line + body[:at] + new + body[at + 1 :])


DAMAGES = {
  'half': half, 'bit': bit, 'empty': empty, 'removed': removed,
  'folder': a_folder, 'swapped': swapped, 'digit': digit,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Case:
  """One damage to one file, and what is run then."""

  kind: str
  name: str
  other: str
  damage: str
  stages: str

  def __str__(self) -> str:
    return f'{self.kind} {self.damage} {self.stages}'


def cases(folder: pathlib.Path, seed: int) -> list[Case]:
  """Every case of a run, in an order that depends on nothing."""
  out = []
  for kind, names in kinds(folder).items():
    rng = random.Random(f'{seed} {kind}')
    name = rng.choice(names)
    content = (folder / name).read_bytes()
    others = [
      other
      for other in names
      if other != name and (folder / other).read_bytes() != content
    ]
    for damage in DAMAGES:
      if damage == 'swapped' and not (others and kind.endswith('.npz')):
        continue
      if damage == 'digit' and not (
        kind.endswith('.csv') and re.search(rb'\n.*\d', content)
      ):
        continue
      if damage in ('half', 'bit', 'empty') and not content:
        continue
      other = rng.choice(others) if others else ''
      out += [Case(kind, name, other, damage, stages) for stages in STAGES]
  return out


def results(folder: pathlib.Path) -> dict[str, bytes]:
  return {
    name: path.read_bytes()
    for path in sorted(folder.rglob('*'))
    if path.is_file() and _RESULTS.match(name := str(path.relative_to(folder)))
  }


def run(config, folder: pathlib.Path, stages: Sequence[str]):
  """('done' | 'refused' | ..., what was said), as launch/main.py has it."""
  try:
    with contextlib.redirect_stdout(io.StringIO()):
      stages_lib.run_stages(config, str(folder), stages)
  except (inputs.InputError, FloatingPointError) as error:
    clear = len(str(error).splitlines()) == 1 and str(error).isprintable()
    return ('refused' if clear else 'unclear'), str(error)
  except OSError as error:
    return 'os_error', str(error)
  except Exception as error:
    where = traceback.extract_tb(error.__traceback__)
    own = [x for x in where if '/jaxdiff/' in x.filename]
    place = f'{pathlib.Path(own[-1].filename).name}:{own[-1].lineno}: '
    return 'traceback', place + f'{type(error).__name__}: {error}'
  return 'done', ''


def judge(
  case: Case, config, base: pathlib.Path, scratch: pathlib.Path, seed: int
) -> dict[str, Any]:
  """What came of a case."""
  copy = scratch / 'run'
  shutil.rmtree(copy, ignore_errors=True)
  shutil.copytree(base, copy)
  rng = random.Random(f'{seed} {case.name} {case.damage}')
  DAMAGES[case.damage](copy / case.name, copy / case.other, rng)
  start = time.monotonic()
  outcome, said = run(config, copy, STAGES[case.stages])
  seconds = time.monotonic() - start
  want, got = results(base), results(copy)
  different = sorted(
    name for name in want.keys() | got.keys() if want.get(name) != got.get(name)
  )
  may_differ = {case.name, case.other}
  if case.name == 'annotations.csv':
    may_differ |= set(_OF_ANNOTATIONS)
  # What the user gave, and tables that a report alone does not make.
  if outcome == 'done' and case.name != 'annotations.csv':
    may_differ = set()
  if [name for name in different if name not in may_differ]:
    alone = outcome == 'done' and different == [case.name]
    if outcome != 'traceback':
      outcome = 'stands' if alone else 'differs'
  if outcome == 'done':
    damaged = copy / case.name
    whole = damaged.is_file() and (
      damaged.read_bytes() == (base / case.name).read_bytes()
    )
    outcome = 'same' if whole else 'kept'
  return {
    'case': str(case), 'file': case.name, 'outcome': outcome,
    'said': said.replace(str(scratch), '')[:300], 'different': different[:6],
    'seconds': round(seconds, 1),
  }  # fmt: skip


def finish(config, folder: pathlib.Path) -> None:
  """The whole run, annotated; twice, for the second must change nothing."""
  stages_lib.run_stages(config, str(folder))
  (folder / 'annotations.csv').write_text(
    'model,sample,memorised\n0,0,yes\n1,1,no\n'
  )
  stages_lib.run_stages(config, str(folder))
  before = tiny.digests(folder)
  stages_lib.run_stages(config, str(folder))
  changed = {
    name for name, value in tiny.digests(folder).items()
    if before.get(name) != value and not name.startswith('logs/')
  }  # fmt: skip
  if changed:
    raise SystemExit(f'the run is never finished: {sorted(changed)[:5]}')


def main(argv: list[str] | None = None) -> int:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--short', action='store_true')
  parser.add_argument('--cases', type=int, default=40, help='of --short')
  parser.add_argument('--only', default='')
  parser.add_argument('--paper', action='store_true')
  parser.add_argument('--keep', type=pathlib.Path)
  parser.add_argument('--list', action='store_true')
  args = parser.parse_args(argv)
  logging.set_verbosity(logging.ERROR)
  mesh.use_cpu_devices(1)
  c = config(args.paper)
  plans = planted(c, plans_lib.make(c))
  counts, failed = collections.Counter(), []
  with (
    tempfile.TemporaryDirectory(prefix='jaxdiff-damage-') as scratch,
    quick(plans),
  ):
    scratch = pathlib.Path(scratch)
    base = args.keep or scratch / 'base'
    if not (base / 'report.html').exists():
      finish(c, base)
    chosen = [
      case for case in cases(base, args.seed) if re.match(args.only, str(case))
    ]
    if args.short and len(chosen) > args.cases:
      order = random.Random(args.seed).sample(range(len(chosen)), args.cases)
      chosen = [chosen[i] for i in sorted(order)]
    for number, case in enumerate(chosen):
      if args.list:
        print(case)
        continue
      line = judge(case, c, base, scratch, args.seed)
      counts[line['outcome']] += 1
      if line['outcome'] in FAULTS:
        failed.append(line['case'])
      print(json.dumps(line), flush=True)
      if number % 100 == 99:
        jax.clear_caches()
  print(json.dumps({'cases': len(chosen), 'outcomes': dict(counts),
                    'faults': len(failed)}))  # fmt: skip
  return int(bool(failed))


if __name__ == '__main__':
  sys.exit(main())
