"""Nets of text-to-image pipelines, under the names of diffusers, in NHWC."""
