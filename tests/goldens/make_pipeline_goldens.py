"""Goldens of whole pipelines, from diffusers, transformers and torch.

    JAXDIFF_EXTRAS=bench launch/local.sh \
      python -m tests.goldens.make_pipeline_goldens

writes tests/goldens/pipelines.npz: for a small pipeline of each family the JSON
files of its folder, names and shapes of its weights (which are those of
`unet_configs`), first noise, and the latents and images of guided runs of 20
steps.
"""

import json
import pathlib
import tempfile

import diffusers
import numpy as np
import safetensors
import torch
import transformers

from tests.goldens import clip_vocabulary, make_text_to_image_goldens
from tests.goldens import text_to_image_configs as configs

HERE = pathlib.Path(__file__).parent
NOISE = {
  'beta_schedule': 'scaled_linear', 'beta_start': 0.00085, 'beta_end': 0.012,
}  # fmt: skip
PROMPTS = ['a photo of an astronaut riding a horse', 'Starry night!']
SCHEDULERS = {
  'sd1': diffusers.PNDMScheduler(
    skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1, **NOISE
  ),
  'sd2': diffusers.DDIMScheduler(
    set_alpha_to_one=False, steps_offset=1, clip_sample=False,
    prediction_type='v_prediction', **NOISE,
  ),
  'sdxl': diffusers.EulerDiscreteScheduler(
    steps_offset=1, timestep_spacing='leading', **NOISE
  ),
}  # fmt: skip


def text_encoder(name: str, vocabulary: dict[str, int]):
  config = configs.TEXTS[name] | {'vocab_size': len(vocabulary)}
  if config['eos_token_id'] != 2:
    config['eos_token_id'] = vocabulary['<|endoftext|>']
  kind = transformers.CLIPTextModel
  if 'projection_dim' in config:
    kind = transformers.CLIPTextModelWithProjection
  return make_text_to_image_goldens.fill(
    kind(transformers.CLIPTextConfig(**config))
  )[0]


def pipeline(name: str, folder: pathlib.Path):
  vocabulary, _ = clip_vocabulary.make()
  pad = '!' if name == 'sd2' else '<|endoftext|>'
  clip_vocabulary.write(folder / 'hub', pad, 12)
  words = transformers.CLIPTokenizer.from_pretrained(folder / 'hub')
  fill = lambda net: make_text_to_image_goldens.fill(net)[0]
  coder = configs.AUTOENCODERS['sd1']
  net = configs.UNETS[name]
  parts = {
    'vae': fill(diffusers.AutoencoderKL(**coder, **configs.blocks(coder))),
    'text_encoder': text_encoder('sd1' if name == 'sdxl' else name, vocabulary),
    'tokenizer': words,
    'scheduler': SCHEDULERS[name],
  }
  if name == 'sdxl':
    net = net | {'cross_attention_dim': 32}
    return diffusers.StableDiffusionXLPipeline(
      unet=fill(diffusers.UNet2DConditionModel(sample_size=8, **net)),
      text_encoder_2=text_encoder('sdxl', vocabulary), tokenizer_2=words,
      add_watermarker=False, **parts,
    )  # fmt: skip
  return diffusers.StableDiffusionPipeline(
    unet=fill(diffusers.UNet2DConditionModel(sample_size=8, **net)),
    safety_checker=None, feature_extractor=None,
    requires_safety_checker=False, **parts,
  )  # fmt: skip


def main() -> None:
  torch.set_num_threads(1)
  rng = np.random.default_rng(0)
  out: dict[str, np.ndarray] = {'prompts': np.array(PROMPTS)}
  for name in SCHEDULERS:
    with tempfile.TemporaryDirectory() as place:
      folder = pathlib.Path(place)
      pipe = pipeline(name, folder)
      pipe.set_progress_bar_config(disable=True)
      saved = folder / 'saved'
      pipe.save_pretrained(saved)
      shapes = {}
      for path in sorted(saved.rglob('*')):
        short = str(path.relative_to(saved))
        if path.suffix == '.json':
          content = np.frombuffer(path.read_bytes(), np.uint8)
          out[f'{name}/files/{short}'] = content
        elif path.suffix == '.safetensors':
          with safetensors.safe_open(path, 'np') as file:
            shapes[short] = {
              key: file.get_slice(key).get_shape() for key in list(file.keys())
            }
      out[f'{name}/shapes'] = np.array(json.dumps(shapes))
      noise = rng.standard_normal((2, 4, 8, 8), np.float32)
      for kind in ('latent', 'np'):
        found = pipe(
          PROMPTS, latents=torch.from_numpy(noise.copy()), guidance_scale=5.0,
          num_inference_steps=20, output_type=kind, height=16, width=16,
        ).images  # fmt: skip
        if kind == 'latent':
          found = found.detach().numpy().transpose(0, 2, 3, 1)
        out[f'{name}/{kind}'] = found
      out[f'{name}/noise'] = noise.transpose(0, 2, 3, 1)
  np.savez_compressed(HERE / 'pipelines.npz', **out)


if __name__ == '__main__':
  main()
