"""Convert pytorch-fid's public Inception weights to safetensors.

    JAXDIFF_EXTRAS=bench launch/local.sh \
      python -m tests.tools.inception_weights \
      pt_inception-2015-12-05-6726825d.pth inception.safetensors

then: --config.quality.inception=inception.safetensors. Nothing is unpickled but
tensors (torch.load with weights_only=True).
"""

import pathlib
import sys

from safetensors import torch as safetensors_torch
import torch

from jaxdiff.interop import inception


def main(source: str, out: str) -> None:
  state = torch.load(source, map_location='cpu', weights_only=True)
  state = {
    name: value.contiguous()
    for name, value in state.items()
    if not name.startswith(('fc.', 'AuxLogits.'))
    and not name.endswith('num_batches_tracked')
  }
  inception.fold({k: v.numpy() for k, v in state.items()}, source)
  temporary = pathlib.Path(out + '.tmp')
  safetensors_torch.save_file(state, temporary)
  temporary.replace(out)
  print(f'{len(state)} tensors in {out}')


if __name__ == '__main__':
  main(*sys.argv[1:])
