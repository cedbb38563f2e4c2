"""Whose certificates a connection accepts, and what to do where it accepts none. Called by `connection` only."""

import ssl

import httpx

from mill.client.endpoint import Endpoint
from mill.errors import FieldError

_MISMATCHES = {62, 64}
"""OpenSSL's X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH."""


def verify(endpoint: Endpoint) -> ssl.SSLContext | bool:
    """What httpx is to verify by. Nothing for plain HTTP: it would read all of the system's certificates in vain."""
    if not endpoint.url.startswith("https:"):
        return False
    if endpoint.ca is None:
        return True
    try:
        if not endpoint.system_ca:
            return ssl.create_default_context(cafile=endpoint.ca)
        context = httpx.create_ssl_context()
        context.load_verify_locations(endpoint.ca)
    except ssl.SSLError:
        raise FieldError("MILL_CA", f"{endpoint.ca} holds no certificate in PEM form") from None
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise FieldError("MILL_CA", f"cannot read {endpoint.ca}: {why}") from None
    return context


def told(error: ssl.SSLCertVerificationError) -> str:
    """What is wrong with a certificate, and what to do."""
    why = f"its certificate is not to be trusted ({error.verify_message.rstrip('.').lower()})"
    if error.verify_code in _MISMATCHES:
        return f"{why}; use another of its addresses, or start milld with --tls-names"
    return f"{why}; set MILL_CA to a copy of ca.pem, from the data directory of a node of that cluster"
