"""LoRA files for the small pipelines, by the names of several trainers."""

import numpy as np

MODULES = {
  'unet': ('attn1.to_q', 'attn2.to_out.0', 'ff.net.2', 'proj_in', 'conv1'),
  'text_encoder': ('self_attn.q_proj', 'mlp.fc1'),
}
RANK, ALPHA = 2, 1.5
STYLES = ('peft', 'older', 'kohya')


def make(shapes, style, seed=0):
  """Tensors of a file, and what each weight becomes larger by.

  Args:
    shapes: of each part, its weights by name.
    style: one of STYLES.
    seed: of the numbers.
  """
  rng = np.random.default_rng(seed)
  state, added = {}, {}
  for part, names in shapes.items():
    for key, shape in sorted(names.items()):
      module = key.removesuffix('.weight')
      if not module.endswith(MODULES[part]) or key == module:
        continue
      down = (RANK, *shape[1:])
      up = (shape[0], RANK, *(1,) * (len(shape) - 2))
      factors = [
        (0.3 * rng.standard_normal(x)).astype(np.float32) for x in (down, up)
      ]
      flat = module.replace('.', '_')
      if style == 'kohya':
        start = 'lora_unet_' if part == 'unet' else 'lora_te_text_model_'
        state[f'{start}{flat}.alpha'] = np.array(ALPHA, np.float32)
        ends = 'lora_down.weight', 'lora_up.weight'
        own = f'{start}{flat}'
      else:
        inside = 'text_model.' if part != 'unet' else ''
        own = f'{part}.{inside}{module}'
        ends = ('lora_A.weight', 'lora_B.weight')
        if style == 'older':
          ends = ('lora.down.weight', 'lora.up.weight')
      for end, factor in zip(ends, factors, strict=True):
        state[f'{own}.{end}'] = factor
      scale = ALPHA / RANK if style == 'kohya' else 1.0
      product = np.einsum(
        'or,ri->oi', factors[1].reshape(-1, RANK).astype(np.float64),
        factors[0].reshape(RANK, -1).astype(np.float64),
      )  # fmt: skip
      added[part, key] = scale * product.reshape(shape)
  return state, added
