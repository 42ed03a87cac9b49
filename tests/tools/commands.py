"""Runs launchers as a user would, watched: exit code, lines, memory, time.

A launcher takes five seconds to import JAX. Where the environment is the
ordinary one it is therefore started by forking a process that has imported
everything and started nothing; where a row sets variables, as a new process.
"""

import collections
from collections.abc import Callable, Mapping, Sequence
import dataclasses
import os
import pathlib
import re
import resource
import runpy
import signal
import subprocess
import sys
import time
import traceback

ROOT = pathlib.Path(__file__).parents[2]
# Bytes of memory above which a command is ended and called a fault.
MOST_MEMORY = 3_000_000_000
HANGS_AFTER = 60.0
_LOG = re.compile(r'[IWEF]\d{4} \d\d:\d\d:\d\d')
_RAISED = re.compile(
  r'[A-Za-z_][\w.]*(Error|Exception|Interrupt|Stop\w*|Exit)\b'
)
_WORK = re.compile(
  r'(train|sample|signals|neighbours|inpainting|surrogates): (models|compiled'
  r'|done|\d+ /)'
)


@dataclasses.dataclass(frozen=True)
class Done:
  """What became of a command.

  Attributes:
    code: exit code; negative, the signal that ended it.
    out: what it printed.
    err: its standard error, log lines included.
    seconds: from start to end.
    memory: largest resident memory seen, bytes.
    ended: 'memory' or 'hang' where the watcher ended it.
    begun: whether it was ended because a stage had begun; its code is 0 then.
  """

  code: int
  out: str
  err: str
  seconds: float
  memory: int
  ended: str = ''
  begun: bool = False

  @property
  def lines(self) -> list[str]:
    return self.err.splitlines()

  @property
  def said(self) -> list[str]:
    """Lines that are no log lines, nor of JAX's cache, which kills tear."""
    lines = iter(self.lines)
    out = []
    for line in lines:
      if 'persistent compilation cache entry' in line:
        next(lines, None)  # the line of the source that warned
      elif not _LOG.match(line):
        out.append(line)
    return out

  @property
  def last(self) -> str:
    """The last line; of a traceback, what was raised."""
    raised = [line for line in self.lines if _RAISED.match(line)]
    if self.traceback and raised:
      return raised[-1]
    return self.lines[-1] if self.lines else ''

  @property
  def traceback(self) -> bool:
    return 'Traceback (most recent call last)' in self.err

  @property
  def worked(self) -> bool:
    """Whether a stage had begun."""
    return any(_WORK.search(line) for line in self.lines)


def refused(done: Done, *parts: str, late: bool = False) -> list[str]:
  """What is wrong with a command that should say one line and exit with 2.

  Args:
    done: the command.
    *parts: what the line must hold.
    late: whether it may have worked before it found out.
  """
  wrong = _common(done)
  if done.code != 2 and not wrong:
    wrong.append('accepted' if done.code == 0 else f'exit {done.code}')
  if done.code == 2 or wrong[:1] != ['accepted']:
    if len(done.said) != 1:
      wrong.append(f'{len(done.said)} lines')
    elif not done.said[0].startswith('jaxdiff: '):
      wrong.append('no "jaxdiff: "')
    elif done.code == 2:
      wrong += [f'does not name {p!r}' for p in parts if p not in done.said[0]]
    if len(done.said) == 1 and re.search(r'[\x00-\x08\x1b\x7f]', done.said[0]):
      wrong.append('control characters')
  if done.worked and not late and wrong[:1] != ['accepted']:
    wrong.append('after long work')
  return wrong


def apart(work: Callable[..., object], *args) -> None:
  """Calls work(*args) in a process of its own, for its side effects.

  Libraries that start threads must not be loaded where launchers are forked.
  """
  pid = os.fork()
  if not pid:
    code = 1
    try:
      work(*args)
      code = 0
    except BaseException:
      traceback.print_exc()
    finally:
      os._exit(code)
  if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
    raise RuntimeError(f'{work.__name__} failed')


def accepted(done: Done) -> list[str]:
  """What is wrong with a command that should work."""
  wrong = _common(done)
  if done.code and not wrong:
    wrong.append(f'exit {done.code}')
  return wrong


def either(done: Done, *parts: str) -> list[str]:
  """Refused in one line, or done."""
  return accepted(done) if done.code == 0 else refused(done, *parts, late=True)


def _common(done: Done) -> list[str]:
  if done.ended:
    return [done.ended]
  if done.traceback:
    return ['traceback']
  if done.code < 0:
    return [f'ended by {signal.Signals(-done.code).name}']
  return []


def launch(
  folder: pathlib.Path,
  verb: str,
  *args: str | bytes,
  env: Mapping[str, str] | None = None,
  timeout: float = HANGS_AFTER,
  after: Callable[[int], None] | None = None,
  limits: Mapping[int, int] | None = None,
  preload: bool = True,
  until_work: bool = False,
) -> Done:
  """Runs `python -m launch.VERB ARGS` to its end, or ends it.

  Args:
    folder: where its output is kept.
    verb: name of the launcher.
    *args: its command line.
    env: variables that differ; they make it a process of its own.
    timeout: seconds, after which it hangs.
    after: called with the process id once it runs.
    limits: of the process, by `resource.RLIMIT_*`.
    preload: False makes it a process of its own too.
    until_work: end it when a stage begins: what is refused was refused before.
  """
  folder.mkdir(parents=True, exist_ok=True)
  number = len(list(folder.glob('*.err')))
  out, err = folder / f'{number}.out', folder / f'{number}.err'
  err.touch()
  start = time.monotonic()
  if env is None and preload:
    pid = _fork(verb, args, out, err, limits)
  else:
    pid = _spawn(verb, args, out, err, env or {}, limits)
  if after is not None:
    after(pid)
  code, memory, ended = _watch(
    pid, start + timeout, err if until_work else None
  )
  return Done(
    0 if ended == 'work' else code,
    out.read_text(errors='replace'),
    err.read_text(errors='replace'),
    time.monotonic() - start,
    memory,
    '' if ended == 'work' else ended,
    ended == 'work',
  )


def _fork(verb, args, out, err, limits) -> int:
  # Before the fork: that is what it is for.
  from jaxdiff.runtime import preemption
  import launch.main  # noqa: F401

  pid = os.fork()
  if pid:
    return pid
  code = 1
  try:
    os.setsid()
    for name, number in ((out, 1), (err, 2)):
      os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    for limit, value in (limits or {}).items():
      resource.setrlimit(limit, (value, value))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup ignores it
    preemption.leave_at_once()  # as `python -m launch.VERB` does
    sys.argv = [f'launch/{verb}.py', *args]
    os.chdir(ROOT)
    try:
      runpy.run_module(f'launch.{verb}', run_name='__main__', alter_sys=True)
      code = 0
    except SystemExit as end:
      code = end.code if isinstance(end.code, int) else int(bool(end.code))
      if isinstance(end.code, str):
        print(end.code, file=sys.stderr)
    except KeyboardInterrupt:
      traceback.print_exc()
      code = 130
    except BaseException:
      traceback.print_exc()
  finally:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _spawn(verb, args, out, err, env, limits) -> int:
  def limit() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    for name, value in (limits or {}).items():
      resource.setrlimit(name, (value, value))

  with open(out, 'wb') as o, open(err, 'wb') as e:
    return subprocess.Popen(
      [sys.executable, '-m', f'launch.{verb}', *args],
      stdout=o,
      stderr=e,
      cwd=ROOT,
      env=os.environ | env,
      start_new_session=True,
      preexec_fn=limit,
    ).pid


def _watch(
  pid: int, deadline: float, err: pathlib.Path | None
) -> tuple[int, int, str]:
  """(exit code, peak memory, why it was ended)."""
  peak, ended = 0, ''
  while True:
    done, status = os.waitpid(pid, os.WNOHANG)
    if done:
      return os.waitstatus_to_exitcode(status), peak, ended
    peak = max(peak, resident(pid))
    if not ended and peak > MOST_MEMORY:
      ended = 'memory'
    if not ended and time.monotonic() > deadline:
      ended = 'hang'
    if (
      not ended
      and err is not None
      and _WORK.search(err.read_text(errors='replace'))
    ):
      ended = 'work'
    if ended:
      os.killpg(pid, signal.SIGKILL)
    time.sleep(0.02)


def resident(pid: int) -> int:
  """Bytes of memory that a process holds now; 0 of one that is gone."""
  try:
    pages = pathlib.Path(f'/proc/{pid}/statm').read_text().split()[1]
  except (OSError, IndexError):
    return 0
  return int(pages) * os.sysconf('SC_PAGE_SIZE')


def table(rows: Sequence[tuple[str, str, str, Done | None, list[str]]]) -> str:
  """Markdown of (id, section, fault, command, what is wrong)."""
  head = '| id | fault | verdict | exit | lines | TB | s | GB | last line |'
  text = [head, '|' + '---|' * (head.count('|') - 1)]
  for name, _, fault, done, wrong in rows:
    cells = [name, fault, 'ok' if not wrong else '**' + '; '.join(wrong) + '**']
    if done is None:
      cells += [''] * 6
    else:
      last = done.last
      cells += [
        str(done.code),
        f'{len(done.lines)} ({len(done.said)})',
        'TB' if done.traceback else '',
        f'{done.seconds:.1f}',
        f'{done.memory / 1e9:.2f}',
        f'`{ascii(last)[1:-1][:150]}`' if last else '',
      ]
    cells = [' '.join(c.replace('|', '/').split()) for c in cells]
    text.append('| ' + ' | '.join(cells) + ' |')
  counts = collections.Counter(
    (wrong[0].split(':')[0] if wrong else 'ok') for *_, wrong in rows
  )
  text += ['', f'{len(rows)} rows: ' + ', '.join(
    f'{count} {name}' for name, count in counts.most_common()
  )]  # fmt: skip
  return '\n'.join(text) + '\n'
