"""The coordinator as a service: HTTP in front of one coordinator per tenant, and its client.

.. code-block:: text

    agent ── Client ──HTTP──> app ──> Guard ──> Tenant ──> FederatedCoordinator ── store
               │                                  │          (commits)               │
             Spool                                ├── Knowledge <── learner process ─┘
                                                  └── History        (learns, publishes)

Nobody waits for learning: exports are acknowledged when they are committed, a process of its own
learns them, and routes, patterns and warm starts are answered from the last :class:`Knowledge`
that it published, a frozen copy that is replaced in one assignment.

Only :class:`Client` lives here, on the standard library alone; the server (extra ``service``) is
started by ``sona serve`` or :func:`sona.service.server.serve`.
"""

from sona.service.client import Client

__all__ = ["Client"]
