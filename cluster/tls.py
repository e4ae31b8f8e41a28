"""Certificates for TLS between the nodes of a Ray cluster (`cluster.tls`), made for one cluster and gone with it.

    python -m cluster.tls FOLDER HOST ...    # FOLDER/ca.crt, tls.crt and tls.key, as job.sbatch calls it

Ray takes one certificate a process, as a server and as a client, and asks every peer for one of the same authority. The
authority's key is never written: nobody, not even the owner of the files, can make another certificate of it.
Source: Ray, configuration, TLS authentication.
"""

from __future__ import annotations

import argparse
import ipaddress
import os
import re
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path

from cluster.s3_server import write_private
from robust.errors import UserError

FILES = {"RAY_TLS_SERVER_CERT": "tls.crt", "RAY_TLS_SERVER_KEY": "tls.key", "RAY_TLS_CA_CERT": "ca.crt"}
VARIABLES = ("RAY_USE_TLS", *FILES)
"""What Ray reads, in every process."""
LOOPBACK = ("127.0.0.1", "localhost")
VALID_FOR = timedelta(days=30)
"""No longer than a cluster lives. Ray reads the files when a process starts, so that new ones would reach nobody."""
CLOCKS_DIFFER = timedelta(minutes=10)
"""By so much a node's clock may be behind."""
HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*")


def issue(folder: Path, hosts: Sequence[str]) -> dict[str, str]:
    """Makes an authority and one certificate for all nodes of a cluster, and throws the authority's key away.

    Args:
        folder: made for its owner alone (mode 700); the files have mode 600.
        hosts: addresses and names by which nodes call each other.
    Returns:
        The environment of every process of the cluster, drivers too.
    Raises: UserError: a host is neither an address nor a name, or the folder is there or cannot be made.
    """
    names = [_name(host) for host in dict.fromkeys((*LOOPBACK, *hosts))]
    try:
        folder.mkdir(mode=0o700)  # not one that is there: another may own it
        for variable, text in zip(FILES, _pems(names)):
            write_private(folder / FILES[variable], text)
    except OSError as error:
        raise UserError(
            f"{folder}: {error.strerror}; give a folder that is not there yet, in one you may write to"
        ) from error
    return {"RAY_USE_TLS": "1"} | {variable: str(folder / name) for variable, name in FILES.items()}


def _pems(names: list) -> tuple[str, str, str]:
    """The certificate, its key and the authority's certificate, in the order of FILES."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    now, signer, key = datetime.now(timezone.utc), *(ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "one Ray cluster")])

    def signed(subject: x509.Name, public_key, *extensions: tuple[x509.ExtensionType, bool]) -> str:
        builder = x509.CertificateBuilder(
            issuer_name=authority,
            subject_name=subject,
            public_key=public_key,
            serial_number=x509.random_serial_number(),
            not_valid_before=now - CLOCKS_DIFFER,
            not_valid_after=now + VALID_FOR,
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()

    def usage(**used: bool) -> x509.KeyUsage:
        every = (
            "digital_signature",
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "key_cert_sign",
            "crl_sign",
            "encipher_only",
            "decipher_only",
        )
        return x509.KeyUsage(**dict.fromkeys(every, False) | used)

    both = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    node = signed(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a node")]),
        key.public_key(),
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (usage(digital_signature=True), True),
        (both, False),
        (x509.SubjectAlternativeName(names), False),
    )
    root = signed(
        authority,
        signer.public_key(),
        (x509.BasicConstraints(ca=True, path_length=0), True),
        (usage(key_cert_sign=True), True),
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return node, private.decode(), root


def _name(host: str):
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        if not HOST.fullmatch(host):
            raise UserError(
                f"{host!r} is no address and no name of a host; give those by which nodes call each other"
            ) from None
        return x509.DNSName(host)


def require(environment: Mapping[str, str] = os.environ) -> None:
    """Whether this process speaks TLS with its cluster, as `cluster.tls` asks: a cluster without it is not joined.

    Raises: UserError: names the variable that is not there, or the file that cannot be read.
    """
    if environment.get("RAY_USE_TLS", "").lower() not in ("1", "true"):
        raise UserError(
            "cluster.tls is true, but RAY_USE_TLS is not set here: this cluster was started without TLS. Start it "
            "as docs/cluster says (on Kubernetes: KubeRay 1.7 with RayClusterMTLS), or set cluster.tls=false."
        )
    for variable in FILES:
        path = environment.get(variable)
        if not path:
            raise UserError(
                f"cluster.tls is true and RAY_USE_TLS set, but {variable} is not; set all of {', '.join(VARIABLES)}."
            )
        if not os.access(path, os.R_OK):
            raise UserError(
                f"{variable}={path}: there is no such file, or it is not yours to read; Ray needs it for TLS."
            )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m cluster.tls", allow_abbrev=False, description=__doc__.partition("\n")[0]
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="is made")
    parser.add_argument("hosts", nargs="+", metavar="HOST", help="addresses and names of the nodes")
    arguments = parser.parse_args(argv)
    try:
        issue(arguments.folder, arguments.hosts)
    except UserError as error:
        print(f"tls: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
