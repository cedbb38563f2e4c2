"""Certificate authorities of the tests' own, and servers' certificates by them; made with the ``openssl`` command.

They are as plain as private ones often are: without key identifiers and usages, which strict verification would miss.
"""

import ssl
import subprocess
from pathlib import Path

import attrs

_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]


@attrs.frozen
class Authority:
    """`ca` is its own certificate, which whoever trusts it is given."""

    folder: Path
    ca: Path

    def server(self, address: str) -> ssl.SSLContext:
        """What a server at the IP *address* needs to show a certificate of this authority."""
        made = self.folder / address
        request, names = made.with_suffix(".csr"), made.with_suffix(".ext")
        _openssl("req", "-new", *_KEY, "-subj", f"/CN={address}", "-keyout", f"{made}.key", "-out", request)
        names.write_text(f"subjectAltName=IP:{address}\nbasicConstraints=CA:FALSE\n")
        _openssl("x509", "-req", "-in", request, "-CA", self.ca, "-CAkey", self.folder / "ca.key", "-CAcreateserial",
                 "-days", "2", "-extfile", names, "-out", f"{made}.pem")  # fmt: skip
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(f"{made}.pem", f"{made}.key")
        return context


def make_authority(folder: Path, name: str) -> Authority:
    """One that nobody trusts yet, kept in a new folder *name*."""
    home = folder / name
    home.mkdir()
    ca = home / "ca.pem"
    _openssl(
        "req", "-x509", *_KEY, "-days", "2", "-subj", f"/CN={name}", "-keyout", home / "ca.key", "-out", ca
    )
    return Authority(home, ca)


def _openssl(*args: str | Path) -> None:
    subprocess.run(["openssl", *args], check=True, capture_output=True)
