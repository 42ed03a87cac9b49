"""The wheel takes launch/ and configs/ along, within jaxdiff.

All else is in pyproject.toml. `jaxdiff/command.py` runs what is shipped so; as
packages of their own, names like `configs` would be in everybody's way.
"""

import pathlib
import shutil

import setuptools
from setuptools.command import build_py


class _WithLaunchers(build_py.build_py):
  def run(self) -> None:
    super().run()
    if not self.editable_mode:
      for name in ('launch', 'configs'):
        shipped = pathlib.Path(self.build_lib, 'jaxdiff', '_shipped', name)
        shipped.mkdir(parents=True, exist_ok=True)
        for path in pathlib.Path(name).glob('*.py'):
          shutil.copy(path, shipped)


setuptools.setup(cmdclass={'build_py': _WithLaunchers})
