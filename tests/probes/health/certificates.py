"""Self-signed certificates for tests, made by openssl."""

import subprocess
from pathlib import Path


def make_certificate(directory: Path, *, days: int, name: str = "localhost") -> Path:
    """Key and certificate in one file; it is for `name` and 127.0.0.1, and ends after so many days."""
    path = directory / f"{name}-{days}.pem"
    subject = ["-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name},IP:127.0.0.1"]
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    files = ["-keyout", path, "-out", f"{path}.crt"]
    command = ["openssl", "req", "-x509", *kind, "-days", str(days), *subject, *files]
    subprocess.run(command, check=True, capture_output=True)
    path.write_text(path.read_text() + Path(f"{path}.crt").read_text())
    return path
