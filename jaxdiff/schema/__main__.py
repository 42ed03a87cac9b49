"""Prints docs/configuration.md."""

from jaxdiff import schema

if __name__ == '__main__':
  print('\n'.join(schema.lines()))
