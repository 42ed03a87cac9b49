"""Goldens of CLIP's tokenizer, from transformers.

    JAXDIFF_EXTRAS=bench launch/local.sh \
      python -m tests.goldens.make_tokenizer_goldens

writes tests/goldens/tokenizer.npz: the numbers of the texts of
`clip_vocabulary`, and the files that transformers 5 makes of it, for two tokens
that fill up.
"""

import pathlib
import tempfile

import numpy as np
import transformers

from tests.goldens import clip_vocabulary

HERE = pathlib.Path(__file__).parent
PADS = {'end': '<|endoftext|>', 'mark': '!'}


def main() -> None:
  texts, out = clip_vocabulary.texts(), {}
  for name, pad in PADS.items():
    with tempfile.TemporaryDirectory() as folder:
      hub, saved = pathlib.Path(folder, 'hub'), pathlib.Path(folder, 'saved')
      clip_vocabulary.write(hub, pad)
      theirs = transformers.CLIPTokenizer.from_pretrained(hub)
      rows = theirs(
        texts, padding='max_length', max_length=77, truncation=True
      )['input_ids']  # fmt: skip
      out[f'{name}/ids'] = np.array(rows, np.int16)
      theirs.save_pretrained(saved)
      for file in ('tokenizer.json', 'tokenizer_config.json'):
        content = (saved / file).read_bytes()
        out[f'{name}/{file}'] = np.frombuffer(content, np.uint8)
  np.savez_compressed(HERE / 'tokenizer.npz', **out)


if __name__ == '__main__':
  main()
