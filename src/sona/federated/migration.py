"""Bringing stores of earlier releases up to the present schema, within one transaction."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import msgspec

from sona.errors import SonaError
from sona.federated import trust
from sona.federated.export import AgentExport

__all__ = ["from_version_1"]

_log = logging.getLogger(__name__)


def from_version_1(run: Callable[..., list[Any]]) -> None:
    """Version 1 kept one table of exports, the latest of each session, and nothing else."""
    keys = run("SELECT agent_id, started FROM exports ORDER BY agent_id, started")
    sequence = 0
    for key in keys:
        export_id, received, body = run(
            "SELECT export_id, received_at, body FROM exports WHERE agent_id = ? AND started = ?",
            *key,
        )[0]
        try:
            export = AgentExport.from_bytes(body)
            summary = trust.summarise(export, trust.screen(export, export.dim)[0], 0.0)
        except SonaError as error:
            _log.error("export of %s started %d is set aside: %s", *key, error)
            number = run("SELECT count(*) FROM set_aside")[0][0]
            place = f"{key[0]} started {key[1]}"
            run(
                "INSERT INTO set_aside VALUES (?, ?, ?, ?, ?)",
                *(number + 1, received, place, str(error), body),
            )
            continue
        sequence += 1
        described = msgspec.json.encode(summary)
        run(
            "INSERT INTO sessions VALUES (?, ?, ?, 0, ?, ?, ?, ?, ?)",
            *(*key, sequence, export.timestamp, export.rows, export_id, received, described),
        )
        run("INSERT INTO bodies VALUES (?, ?)", sequence, body)
    run("UPDATE facts SET number = ? WHERE name = 'sequence'", sequence)
    run("DROP TABLE exports")
