"""sona: agents that learn from their own outcomes, and hand on what they learned."""

__version__ = "0.1.0"
