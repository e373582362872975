"""What sona costs inside other programs: ``python -m bench.integrations.hooks``, ``.litellm``."""
