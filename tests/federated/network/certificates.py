"""Certificates and security files made by the test."""

from __future__ import annotations

import trustme

from sona.federated.network import Security


class Authority:
    """Signs certificates and writes the files that go with them."""

    def __init__(self, folder):
        self.folder = folder
        self._ca = trustme.CA()
        self._ca.cert_pem.write_to_path(str(folder / "ca.pem"))

    def file(self, name, *, host="127.0.0.1", agents=(), nodes=(), ca=None):
        """A security file for `name`; `agents`: (certificate, [agents it speaks for]) pairs."""
        signed = (ca or self._ca).issue_cert(host, common_name=name)
        signed.private_key_pem.write_to_path(str(self.folder / f"{name}.key"))
        signed.cert_chain_pems[0].write_to_path(str(self.folder / f"{name}.pem"))
        lines = [
            "[tls]",
            'ca = "ca.pem"',
            f'certificate = "{name}.pem"',
            f'key = "{name}.key"',
            "[agents]",
            *(f'"{holder}" = {list(may)}' for holder, may in agents),
            "[nodes]",
            f"names = {list(nodes)}",
        ]
        path = self.folder / f"{name}.toml"
        path.write_text("\n".join(lines))
        return path

    def security(self, name, **options):
        return Security.from_file(self.file(name, **options))
