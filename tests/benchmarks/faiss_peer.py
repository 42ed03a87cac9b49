"""faiss as fast as this processor lets it be.

The OpenBLAS in faiss-cpu's wheels does not know every processor: on a Xeon with
AMX it takes kernels that are a sixth as fast as those it has for the Xeons
before, which is no peer to be compared with.
"""

import json
import os
import subprocess
import sys

# Of OPENBLAS_CORETYPE; '' is OpenBLAS's own choice.
KERNELS = ('', 'SkylakeX', 'Haswell')

_SEARCH = """
import time, faiss, numpy as np
rows = np.random.default_rng(0).random((20_000, 1024), np.float32)
index = faiss.IndexFlatL2(1024)
index.add(rows)
taken = []
for _ in range(4):
  begun = time.perf_counter()
  index.search(rows[:512], 10)
  taken.append(time.perf_counter() - begun)
print(min(taken))
"""


def load():
  """The module, with the fastest of KERNELS unless the environment names one.

  Call before anything else imports faiss.
  """
  if 'OPENBLAS_CORETYPE' not in os.environ and 'faiss' not in sys.modules:
    seconds = {name: _seconds(name) for name in KERNELS}
    known = {name: taken for name, taken in seconds.items() if taken}
    best = min(known, key=known.__getitem__)
    if best:
      os.environ['OPENBLAS_CORETYPE'] = best
    listed = {name or 'own choice': taken for name, taken in seconds.items()}
    print(json.dumps({'openblas_of_faiss_s': listed}), flush=True)
  import faiss

  return faiss


def _seconds(name: str) -> float | None:
  """Of a search by some kernels; None where the processor lacks them."""
  named = {'OPENBLAS_CORETYPE': name} if name else {}
  done = subprocess.run(
    [sys.executable, '-c', _SEARCH],
    env={**os.environ, **named}, capture_output=True, text=True, check=False,
  )  # fmt: skip
  return None if done.returncode else round(float(done.stdout), 4)
