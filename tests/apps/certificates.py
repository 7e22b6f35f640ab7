# SPDX-License-Identifier: Apache-2.0
"""Authorities, certificates and keys of a test's own, by the openssl program; each a file in PEM."""

import pathlib
import shutil
import subprocess
import tempfile

from ingest import Skip

CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


def openssl(*words):
    done = subprocess.run(["openssl", *map(str, words)], capture_output=True, check=False)
    if done.returncode != 0:
        raise AssertionError(f"openssl {words[0]}: {done.stderr.decode(errors='replace')[-500:]}")

class Authority:
    """Signs certificates; all of it is in a folder that goes with the block."""

    def __init__(self, name="Endwell test authority"):
        self.name = name

    def __enter__(self):
        if not shutil.which("openssl"):
            raise Skip("openssl is not installed")
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="ew-certificates."))
        self.certificate = self.folder / "authority.pem"
        self.key = self.folder / "authority.key"
        openssl("req", "-x509", *CURVE, "-days", 2, "-subj", f"/CN={self.name}", "-keyout", self.key, "-out", self.certificate)
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.folder)

    def sign(self, name, alternatives="DNS:localhost,IP:127.0.0.1", expired=False):
        """A certificate and its key."""
        certificate, key, request = (self.folder / f"{name}.{kind}" for kind in ("pem", "key", "request"))
        openssl("req", *CURVE, "-subj", f"/CN={name}", "-keyout", key, "-out", request)
        extensions = self.folder / "extensions"
        extensions.write_text(f"subjectAltName={alternatives}\n")
        # A validity of less than no days has ended before it began.
        openssl("x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self.key, "-CAcreateserial",
                "-days", -1 if expired else 2, "-extfile", extensions, "-out", certificate)
        return certificate, key
