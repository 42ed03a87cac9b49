"""Damages small whole files of every loader and looks at what becomes of them.

    launch/local.sh python -m tests.tools.fuzz_loaders --mutations=2000 --seed=0

Every mutation is loaded through the boundary that launchers use: `plans.make`,
`inception.read`, `runs.read_npz`, `image_sets.open_set`, `score_files.read`. It
may be taken or refused: by a ValueError (an InputError is one) whose message is
one line. Faults are

    traceback  any other exception, or the process died
    silent     taken with other content than the whole file's, where the format
               has a checksum that says so (gzip, zip, PNG, array_record)
    memory     more than --memory_gb of resident memory beyond what there was,
               or an allocation that failed (at four times as much)
    hang       more than --seconds
    unclear    refused, but in several lines, with control characters, or with
               no reason after a colon
    unnamed    refused, but neither the file nor a key of the config is named
    ran        a module was imported that the file named

Half of the mutations of a packed format damage what is packed and pack it
again, with right checksums: nothing is silent of these.

One JSON line a loader: how often what happened, and the numbers of the first
mutations that are faults; exits with 1 if there is one. Equal arguments give
equal mutations, whatever --loader names:

    --loader=NAME ...  these alone
    --replay=I         mutation I of one --loader: its traceback, if any
    --keep=FOLDER      write there what was at fault, as LOADER-I/

CIFAR-10's archives are made with --cifar_rows rows a batch. Where the loader
wants 10,000, or the official digests, whole ones are refused ("whole" says
so), and mutations go no deeper than that.
"""

import argparse
import collections
from collections.abc import Iterator
import contextlib
import ctypes
import dataclasses
import json
import os
import pathlib
import random
import re
import resource
import select
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
from typing import Any
import warnings
import zipfile

from absl import logging

from tests.tools import fuzz_brought, fuzz_targets, mutations
from tests.tools.fuzz_targets import Files, Target

# More of these and the rest of a loader's mutations is left.
_MOST_HANGS = 6
FAULTS = (
  'traceback', 'silent', 'memory', 'hang', 'unclear', 'unnamed', 'ran',
)  # fmt: skip
_NO_MEMORY = re.compile(r'(?i)allocate|out of memory|memoryerror')
_KEY = re.compile(r'\b(data|model|quality)\.[a-z_]+')


def every_target(cifar_rows: int) -> dict[str, Target]:
  """Every loader, by name."""
  return fuzz_targets.targets(cifar_rows) | fuzz_brought.targets()


# One mutation, many mutations.


@dataclasses.dataclass(frozen=True)
class Mutation:
  """A damaged file among whole ones."""

  whole: Files
  files: Files
  name: str
  inner: bool


def mutation(name: str, target: Target, seed: int, index: int) -> Mutation:
  """Mutation `index` of a loader: the same for equal arguments."""
  rng = random.Random(f'{seed} {name} {index}')
  whole = target.make(rng)
  damaged = rng.choice(target.damaged)
  inner = target.inner is not None and rng.random() < 0.5
  while True:
    if inner:
      try:
        content = target.inner(rng, whole[damaged])
      except (OverflowError, UnicodeError, struct.error, zipfile.BadZipFile):
        continue  # what cannot be packed
    else:
      content = mutations.mutate(rng, whole[damaged])
    if content != whole[damaged]:
      break
  return Mutation(whole, whole | {damaged: content}, damaged, inner)


def write(folder: pathlib.Path, files: Files) -> pathlib.Path:
  shutil.rmtree(folder, ignore_errors=True)
  for name, content in files.items():
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
  return folder


def attempt(target: Target, folder: pathlib.Path) -> tuple[str, str]:
  """('taken', digest) or (what happened, how it was said)."""
  modules = {'this', 'antigravity'} & sys.modules.keys()
  try:
    with open(os.devnull, 'w') as null, contextlib.redirect_stdout(null):
      got = 'taken', target.load(folder)
  except ValueError as error:
    text = str(error)
    lines = len(text.splitlines())
    if _NO_MEMORY.search(text):
      what = 'memory'
    elif lines != 1 or not text.isprintable() or text.rstrip().endswith(':'):
      what = 'unclear'
    elif str(folder) not in text and not _KEY.search(text):
      what = 'unnamed'
    else:
      what = 'refused'
    got = what, text[:300]
  except MemoryError as error:
    got = 'memory', repr(error)[:300]
  except AssertionError:
    raise
  except Exception as error:
    got = 'traceback', f'{type(error).__name__}: {error}'[:300]
  ran = ({'this', 'antigravity'} & sys.modules.keys()) - modules
  for module in ran:
    del sys.modules[module]
  return ('ran', f'{ran}') if ran else got


def judge(
  name: str,
  target: Target,
  seed: int,
  index: int,
  scratch: pathlib.Path,
  memory: float = 2**30,
) -> tuple[str, str]:
  """(outcome, how it was said) of one mutation."""
  one = mutation(name, target, seed, index)
  before = _peak(reset=True)
  got, said = attempt(target, write(scratch / 'damaged', one.files))
  if _peak() - before > memory:
    return 'memory', f'{(_peak() - before) / 2**30:.1f} GB; {got}: {said}'[:300]
  if got != 'taken' or one.inner:
    return got, said
  whole, there = attempt(target, write(scratch / 'whole', one.whole))
  if (whole, there) == (got, said):
    return 'same', ''
  if one.name in target.checked:
    return 'silent', f'whole: {whole}'
  return 'other', ''


def _peak(reset: bool = False) -> int:
  """Bytes of memory held at most, since the last reset."""
  if reset:
    pathlib.Path('/proc/self/clear_refs').write_text('5')
  status = pathlib.Path('/proc/self/status').read_text()
  return 1024 * int(re.search(r'VmHWM:\s+(\d+)', status)[1])


def _limit_memory(more: float) -> None:
  pages = int(pathlib.Path('/proc/self/statm').read_text().split()[0])
  limit = pages * os.sysconf('SC_PAGE_SIZE') + int(more * 2**30)
  resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _work(
  name: str,
  target: Target,
  args: argparse.Namespace,
  indices: Iterator[int],
  out: int,
  scratch: pathlib.Path,
) -> None:
  """Judges mutations, a line each; the process that runs this may die."""
  # An arena a thread would be address space that nothing uses.
  ctypes.CDLL(None).mallopt(-8, 1)
  logging.set_verbosity(logging.FATAL)
  warnings.simplefilter('ignore')
  with open(os.devnull, 'w') as null:
    os.dup2(null.fileno(), 2)
  whole, said = attempt(
    target, write(scratch / 'whole', target.make(random.Random(0)))
  )
  os.write(out, (json.dumps(['whole', whole, said]) + '\n').encode())
  _limit_memory(4 * args.memory_gb)
  for index in indices:
    outcome = (
      index,
      *judge(name, target, args.seed, index, scratch, args.memory_gb * 2**30),
    )
    os.write(out, (json.dumps(outcome) + '\n').encode())


def fuzz(
  name: str, target: Target, args: argparse.Namespace, scratch: pathlib.Path
) -> dict[str, Any]:
  """All mutations of a loader, in processes that may die or hang."""
  counts, first, whole = collections.Counter(), {}, ''
  index, start = 0, time.monotonic()

  def note(number: int, outcome: str, said: str) -> None:
    counts[outcome] += 1
    if outcome in FAULTS:
      kind = first.setdefault(outcome, [])
      if len(kind) < args.first:
        kind.append([number, said])
        if args.keep:
          files = mutation(name, target, args.seed, number).files
          write(args.keep / f'{name}-{number}', files)

  while index < args.mutations and counts['hang'] < _MOST_HANGS:
    read, write_end = os.pipe()
    pid = os.fork()
    if not pid:
      try:
        os.close(read)
        _work(name, target, args, range(index, args.mutations), write_end,
              scratch)  # fmt: skip
        os._exit(0)
      except BaseException:
        traceback.print_exc()
        os._exit(1)
    os.close(write_end)
    buffer, waits = b'', 120.0  # the first line comes after imports
    while True:
      ready, _, _ = select.select([read], [], [], waits)
      piece = os.read(read, 2**16) if ready else b''
      if not piece:
        break
      buffer += piece
      *lines, buffer = buffer.split(b'\n')
      for line in lines:
        number, outcome, said = json.loads(line)
        if number == 'whole':
          whole = outcome if outcome == 'taken' else f'{outcome}: {said}'
        else:
          note(number, outcome, said)
          index = number + 1
      waits = args.seconds
    os.close(read)
    if not ready:
      os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if not ready:
      note(index, 'hang', '')
      index += 1
    elif status:
      code = os.waitstatus_to_exitcode(status)
      note(index, 'traceback', f'the process ended with {code}')
      index += 1
  return {
    'loader': name, 'mutations': index, 'whole': whole,
    'outcomes': dict(sorted(counts.items())), 'first': first,
    'seconds': round(time.monotonic() - start, 1),
  }  # fmt: skip


def replay(name: str, target: Target, args: argparse.Namespace) -> int:
  """One mutation, here, with all that it says."""
  one = mutation(name, target, args.seed, args.replay)
  with tempfile.TemporaryDirectory() as scratch:
    folder = write((args.keep or pathlib.Path(scratch)) / 'replayed', one.files)
    print(f'{one.name}, {"packed again" if one.inner else "damaged"}')
    print(one.files[one.name][:300])
    try:
      print('taken:', target.load(folder))
    except ValueError as error:
      print('refused:', error)
    except Exception:
      traceback.print_exc()
    print(judge(name, target, args.seed, args.replay, pathlib.Path(scratch)))
  return 0


def main(argv: list[str] | None = None) -> int:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--mutations', type=int, default=2000)
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--loader', nargs='+', choices=every_target(2))
  parser.add_argument('--seconds', type=float, default=10.0)
  parser.add_argument('--memory_gb', type=float, default=1.0)
  parser.add_argument('--cifar_rows', type=int, default=2)
  parser.add_argument('--first', type=int, default=5)
  parser.add_argument('--replay', type=int)
  parser.add_argument('--keep', type=pathlib.Path)
  args = parser.parse_args(argv)
  # Imported before the processes that may die are forked; no backend starts.
  from jaxdiff.interop import diffusers, inception  # noqa: F401

  known = every_target(args.cifar_rows)
  names = args.loader or list(known)
  if args.replay is not None:
    return replay(names[0], known[names[0]], args)
  failed = False
  with tempfile.TemporaryDirectory(prefix='jaxdiff-fuzz-') as scratch:
    for name in names:
      line = fuzz(name, known[name], args, pathlib.Path(scratch))
      failed |= any(line['outcomes'].get(fault) for fault in FAULTS)
      print(json.dumps(line), flush=True)
  return int(failed)


if __name__ == '__main__':
  sys.exit(main())
