"""Certificates for tests, of a CA made on the spot."""

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID


def make(folder: Path, *hosts: str) -> tuple[Path, Path, Path]:
    """ca.pem, certificate.pem, key.pem: a CA, and a certificate for loopback and other hosts, with its key.

    It is RSA in unencrypted PKCS#8, the only kind that TorchServe takes.
    """
    authority_key, key = (rsa.generate_private_key(65537, 2048) for _ in range(2))
    authority, subject = (
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in ("test CA", "densenet")
    )
    now = datetime.now(UTC)

    def builder(name: x509.Name, public: rsa.RSAPublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(authority)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=2))
        )

    names = [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), *(x509.DNSName(host) for host in ("localhost", *hosts))]
    ca = builder(authority, authority_key.public_key()).add_extension(x509.BasicConstraints(True, None), critical=True)
    signed = builder(subject, key.public_key()).add_extension(x509.SubjectAlternativeName(names), critical=False)
    pem = serialization.Encoding.PEM
    paths = folder / "ca.pem", folder / "certificate.pem", folder / "key.pem"
    paths[0].write_bytes(ca.sign(authority_key, hashes.SHA256()).public_bytes(pem))
    paths[1].write_bytes(signed.sign(authority_key, hashes.SHA256()).public_bytes(pem))
    paths[2].write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return paths
