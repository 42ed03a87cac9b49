"""Starts a program as several processes that form one run."""

import os
import pathlib
import socket
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]

# Stages of a tiny config in one folder, on some devices a process. TINY names
# the config: a function of tests/tiny.py.
AUDIT = """
import os, signal, sys
# As a terminal's child: what nohup and shells ignore in the background, too.
for name in ('SIGTERM', 'SIGINT', 'SIGHUP'):
  signal.signal(getattr(signal, name), signal.SIG_DFL)
from jaxdiff.pipeline import stages as pipeline
from jaxdiff.runtime import mesh, multihost, preemption
from tests import tiny
count, number, address, devices, folder, *stages = sys.argv[1:]
mesh.use_cpu_devices(int(devices))
if int(count) > 1:
  multihost.start(address, int(count), int(number), 120)
preemption.watch()
try:
  config = getattr(tiny, os.environ.get('TINY', 'config'))()
  pipeline.run_stages(config, folder, stages)
except preemption.Preempted:
  sys.exit(preemption.EXIT_CODE)
"""


def free_address() -> str:
  with socket.socket() as probe:
    probe.bind(('localhost', 0))
    return f'localhost:{probe.getsockname()[1]}'


def start(program: str, count: int, *args, log=None) -> list[subprocess.Popen]:
  """Processes of `program`; sys.argv: count, number, address, then args."""
  address = free_address()
  return [
    subprocess.Popen(
      [sys.executable, '-c', program, str(count), str(number), address]
      + [str(arg) for arg in args],
      cwd=ROOT,
      stdout=log or subprocess.DEVNULL,
      stderr=subprocess.STDOUT,
      env=os.environ | {'JAX_PLATFORMS': 'cpu'},
    )
    for number in range(count)
  ]


def run(program: str, count: int, *args, log=None) -> list[int]:
  """Their exit codes."""
  return [one.wait() for one in start(program, count, *args, log=log)]
