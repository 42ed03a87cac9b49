"""Which captions are worth a prompt: those of copies, or those that stand out.

    launch/local.sh python -m launch.choose --captions=clip.parquet \
      --by=duplicates --top=350000 --out=prompts.jsonl

The captions and their embeddings are yours (an npz, or Parquet); what comes out
is a file for `--config.prompts` of configs/pipeline.py.
"""

from absl import flags
from etils import epath

from jaxdiff import inputs
from jaxdiff.attacks.prompts import choose
from jaxdiff.data.readers import prompt_embeddings
from jaxdiff.interop import diffusers
from jaxdiff.runs import files
from launch import plain

CAPTIONS = flags.DEFINE_string(
  'captions', None,
  'An .npz or .parquet with prompt (or text, or caption), embedding, and '
  'optionally id.', required=True,
)  # fmt: skip
BY = flags.DEFINE_enum(
  'by', 'duplicates', choose.KINDS,
  'duplicates: rows within --cosine; outliers: mean distance to the 1,000 '
  'nearest; text: rows of the same caption.',
)  # fmt: skip
COSINE = flags.DEFINE_float(
  'cosine', 0.95, 'Of embeddings of duplicates, at least.', 0.0, 1.0
)
TOP = flags.DEFINE_integer('top', 350_000, 'Captions, at most.', 1)
OUT = flags.DEFINE_string('out', None, 'A new .jsonl.', required=True)


def work() -> None:
  """What the flags say."""
  if not OUT.value.lower().endswith('.jsonl'):
    raise inputs.InputError('--out: name a new .jsonl')
  out = diffusers.check_new(OUT.value)
  if not out.parent.is_dir():
    raise inputs.InputError(f'--out: no folder {inputs.name_of(out.parent)}')
  brought = prompt_embeddings.read(
    CAPTIONS.value, '--captions', embedded=BY.value != 'text'
  )
  try:
    table = choose.best(
      brought.embeddings, brought.captions, brought.ids, by=BY.value,
      top=TOP.value, cosine=COSINE.value,
    )  # fmt: skip
  except ValueError as error:
    raise inputs.InputError(f'--captions: {error}') from error
  # Not CSV, in which what a spreadsheet would run is made another text.
  text = table.to_json(orient='records', lines=True, force_ascii=False)
  files.write(epath.Path(out), text.encode())
  print(f'prompts: {OUT.value}, {len(table):,} of {len(brought.captions):,}')


if __name__ == '__main__':
  plain.start(work)
