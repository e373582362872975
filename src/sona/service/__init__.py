"""The coordinator as a service: HTTP in front of one coordinator per tenant, and its client.

.. code-block:: text

    agent ── Client ──HTTP──> app ──> Caller (tokens) ──> Tenant ──> FederatedCoordinator
               │                       Limits                │         (commit, then learn)
             Spool                                           ├──> Knowledge   what readers see
                                                             └──> History     what happened

Writers and readers never wait for each other: exports go through one writer thread per tenant,
while routes, patterns and warm starts are answered from the last :class:`Knowledge` that was
published, a frozen copy that is replaced in one assignment.

Only :class:`Client` lives here, on the standard library alone; the server (extra ``service``) is
started by ``sona serve`` or :func:`sona.service.server.serve`.
"""

from sona.service.client import Client

__all__ = ["Client"]
