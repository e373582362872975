"""Who may speak to whom: mutual TLS and access control, read from one file.

The file is TOML. Paths are relative to it::

    [tls]
    ca = "ca.pem"                  # signs every certificate of the fleet
    certificate = "north.pem"      # this process's own; its common name is who it is
    key = "north.key"

    [agents]                       # for those who listen: certificate -> agents it speaks for
    "host-7" = ["web-*", "batch"]

    [nodes]                        # certificates of regional coordinators, peers, operators
    names = ["south", "global"]

Whoever is not named may connect, because the CA signed it, and gets no answer to anything.
Enforcement is Zenoh's: TLS authenticates the link, access control drops what is not allowed
before it reaches this process's code. A host's agents share a certificate, so that one may hand
in what another left in the spool.
"""

from __future__ import annotations

from os import PathLike, fspath, path
from typing import Any

import msgspec

from sona.errors import SecurityError
from sona.federated.network import keys

__all__ = ["Security"]

# What a listener lets out: its answers, and what clients must know to ask.
_OUT = ["reply", "declare_queryable", "liveliness_token", "liveliness_query"]
_ASK = ["query"]
_PRESENCE = ["liveliness_token", "liveliness_query"]


class _Tls(msgspec.Struct, forbid_unknown_fields=True):
    ca: str
    certificate: str
    key: str


class _Nodes(msgspec.Struct, forbid_unknown_fields=True):
    names: list[str] = msgspec.field(default_factory=list)


class _File(msgspec.Struct, forbid_unknown_fields=True):
    tls: _Tls
    agents: dict[str, list[str]] = msgspec.field(default_factory=dict)
    nodes: _Nodes = msgspec.field(default_factory=_Nodes)


class Security:
    """How links are authenticated and what each may ask.

    Made by :meth:`from_file`, or by :meth:`off`, which is refused for anything but loopback.
    """

    __slots__ = ("_file", "_folder")

    def __init__(self, file: _File | None, folder: str) -> None:
        self._file = file
        self._folder = folder

    @classmethod
    def off(cls) -> Security:
        """Neither TLS nor access control: everyone on this host may do everything."""
        return cls(None, "")

    @classmethod
    def from_file(cls, file: str | PathLike[str]) -> Security:
        """Read the file that this module describes.

        Raises
        ------
        SecurityError
            If it cannot be read, says something else, or names a file that does not exist.
        """
        import tomllib

        name = fspath(file)
        try:
            with open(name, "rb") as stream:
                read = msgspec.convert(tomllib.load(stream), _File)
        except (OSError, ValueError) as error:  # TOML and schema errors are ValueErrors
            raise SecurityError(f"`security`: cannot use {name!r}: {error}") from error
        made = cls(read, path.dirname(path.abspath(name)))
        for what in ("ca", "certificate", "key"):
            if not path.isfile(found := made._path(getattr(read.tls, what))):
                raise SecurityError(f"`security`: tls.{what} of {name!r}: no file {found!r}")
        return made

    @property
    def is_on(self) -> bool:
        """Whether links are authenticated."""
        return self._file is not None

    def tls(self) -> dict[str, Any]:
        """Zenoh's ``transport/link/tls``: the same certificate to listen and to connect with."""
        if self._file is None:
            return {}
        tls = self._file.tls
        own = {"certificate": self._path(tls.certificate), "private_key": self._path(tls.key)}
        return {
            "root_ca_certificate": self._path(tls.ca),
            "enable_mtls": True,
            "verify_name_on_connect": True,
            "close_link_on_expiration": True,
            **{
                f"{side}_{what}": file
                for side in ("listen", "connect")
                for what, file in own.items()
            },
        }

    def access(self) -> dict[str, Any]:
        """Zenoh's ``access_control`` of a process that listens; empty when off."""
        if self._file is None:
            return {}
        rules = [
            _rule("out", "egress", _OUT, [keys.ALL]),
            _rule("read", "ingress", _ASK, [keys.WARM]),
            _rule("presence", "ingress", _PRESENCE, [keys.ALIVE]),
            _rule("node", "ingress", _ASK, [keys.ALL]),
        ]
        subjects: list[dict[str, Any]] = [{"id": "everyone"}]
        policies = [{"rules": ["out"], "subjects": ["everyone"]}]
        if self._file.nodes.names:
            subjects.append({"id": "nodes", "cert_common_names": self._file.nodes.names})
            policies.append({"rules": ["node", "presence"], "subjects": ["nodes"]})
        for number, (holder, agents) in enumerate(self._file.agents.items()):
            who = f"agents-{number}"
            rules.append(_rule(who, "ingress", _ASK, [keys.submit_like(a) for a in agents]))
            subjects.append({"id": who, "cert_common_names": [holder]})
            policies.append({"rules": [who, "read", "presence"], "subjects": [who]})
        return {
            "enabled": True,
            "default_permission": "deny",
            "rules": rules,
            "subjects": subjects,
            "policies": policies,
        }

    def _path(self, name: str) -> str:
        return path.join(self._folder, name)


def _rule(name: str, flow: str, messages: list[str], key_exprs: list[str]) -> dict[str, Any]:
    return {
        "id": name,
        "permission": "allow",
        "flows": [flow],
        "messages": messages,
        "key_exprs": key_exprs,
    }
