#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What `make install` installs is enough for a program of somebody else's."""

import os
import pathlib
import subprocess
import tempfile

import ingest
from ingest import Skip, check, equal

PROGRAM = """
#include <amqp/channel.h>
#include <amqp/dialer.h>
#include <endwell/endwell.h>
#include <netinet/in.h>
#include <stdio.h>
#include <tls/tls.h>

static int nobody(void *tls)
{
	const struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(1) };
	const struct ew_amqp_options options = { .tls = tls, .server_name = "nobody" };
	struct ew_amqp_error error;
	int r;

	EW_SCOPE(scope);
	EW_OWN(ew_amqp_connection, connection);

	r = ew_amqp_connection_open(&scope, (const struct sockaddr *)&address, sizeof(address), &options, &error,
				    &connection);
	printf("%s", r < 0 ? error.text : "somebody");
	return ew_scope_finish(&scope, 0);
}

int main(void)
{
	struct ew_tls_context *context;

	return ew_tls_context_new(NULL, NULL, &context) < 0 || ew_run(NULL, nobody, context) < 0;
}
"""


def run(*words, **environment):
    done = subprocess.run([str(word) for word in words], env={**os.environ, **environment}, capture_output=True, check=False)
    check(done.returncode == 0, f"{words}: {(done.stdout + done.stderr).decode(errors='replace')[-1000:]}")
    return done.stdout.decode()


def test_install_is_enough_to_build_and_run_a_program():
    if not (ingest.BUILD / "build.ninja").exists():
        raise Skip("nothing was built here")
    with tempfile.TemporaryDirectory(prefix="ew-install.") as name:
        root = pathlib.Path(name)
        run("meson", "install", "-C", ingest.BUILD, "--no-rebuild", DESTDIR=name)
        for header in (ingest.ROOT / "include" / "endwell").glob("*.h"):
            check(list(root.glob(f"**/include/endwell/{header.name}")), f"{header.name} is installed")
        (found,) = root.glob("**/endwell-amqp.pc")
        flags = run("pkg-config", "--cflags", "--libs", "endwell-amqp", PKG_CONFIG_PATH=str(found.parent),
                    PKG_CONFIG_SYSROOT_DIR=name).split()
        (root / "program.c").write_text(PROGRAM)
        run(os.environ.get("CC", "gcc"), "-D_GNU_SOURCE", root / "program.c", "-o", root / "program", *flags)
        equal(run(root / "program", LD_LIBRARY_PATH=str(found.parent.parent)), "Connection refused")


if __name__ == "__main__":
    ingest.main()
