# SPDX-License-Identifier: Apache-2.0
"""A RabbitMQ of a test's own: on loopback, with a folder for all that it keeps, ended by its pid.

The server is started by its own script, not by the distribution's, which would change the user, and with an epmd (Erlang's
name server) of its own, since the one that Erlang would start by itself outlives it.
"""

import contextlib
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import tempfile

import ingest
from ingest import Skip, wait_until

PROGRAMS = pathlib.Path("/usr/lib/rabbitmq/bin")


def is_free(port):
    with socket.socket() as listener:
        try:
            listener.bind(("127.0.0.1", port))
            return True
        except OSError:
            return False


def free_ports(count):
    """Ports that nobody has just now, from below those that connections are given: it takes seconds until they are used."""
    end = int(pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    found = []
    while len(found) < count:
        port = random.randrange(10000, max(end, 20000))
        if port not in found and is_free(port):
            found.append(port)
    return found


class Broker:
    """Started by start(), which takes 5 s or more, and tries again if somebody was faster to take a port; ended by the end
    of its block. With an authority it speaks TLS too, on a port of its own, with whoever has a certificate of that one."""

    def __init__(self, authority=None):
        self.server = self.epmd = self.port = self.tls_port = None
        self.authority = authority

    def start(self):
        if not (PROGRAMS / "rabbitmq-server").exists() or not shutil.which("epmd"):
            raise Skip("RabbitMQ is not installed")
        for attempt in range(3):
            self.start_once()
            try:
                wait_until(self.answers, 60, lambda: "RabbitMQ answers: " + self.output())
                return
            except AssertionError:
                self.stop()
                if attempt == 2:
                    raise

    def start_once(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="ewq.", dir="/tmp"))
        self.port, self.tls_port, distribution, names = free_ports(4)
        self.configure(distribution, names)
        with open(self.folder / "output", "wb") as output:
            self.epmd = subprocess.Popen(["epmd", "-port", str(names), "-address", "127.0.0.1"], stdout=output,
                                         stderr=output, stdin=subprocess.DEVNULL, start_new_session=True)
        self.launch()

    def launch(self):
        with open(self.folder / "output", "ab") as output:
            self.server = subprocess.Popen([str(PROGRAMS / "rabbitmq-server")], stdout=output, stderr=output,
                                           stdin=subprocess.DEVNULL, start_new_session=True, cwd=self.folder,
                                           env={**self.environment, **self.server_environment})

    def restart(self):
        """After kill(): on the same port, with what it has kept."""
        self.server.wait(20 * ingest.SCALE)
        self.launch()
        wait_until(self.answers, 60, lambda: "RabbitMQ answers: " + self.output())

    def output(self):
        return (self.folder / "output").read_text(errors="replace")[-500:]

    def configure(self, distribution, names):
        (self.folder / "home").mkdir()
        (self.folder / "enabled_plugins").write_text("[].\n")
        (self.folder / "rabbitmq.conf").write_text(
            f"listeners.tcp.default = 127.0.0.1:{self.port}\n"
            "vm_memory_high_watermark.absolute = 512MB\ndisk_free_limit.absolute = 1MB\nheartbeat = 10\n"
            "log.console = true\nlog.file = false\n" + (self.tls_lines() if self.authority else ""))
        self.environment = {
            **os.environ, "HOME": str(self.folder / "home"), "RABBITMQ_NODENAME": f"ew{names}@localhost",
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq.conf"), "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_MNESIA_BASE": str(self.folder / "mnesia"), "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_LOGS": "-", "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "enabled_plugins"),
            "ERL_CRASH_DUMP": str(self.folder / "crash"),
            "RABBITMQ_PID_FILE": str(self.folder / "pid"), "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(names), "RABBITMQ_DIST_PORT": str(distribution),
        }
        # It shares the machine: its threads do not spin while they have nothing to do.
        self.server_environment = {"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS":
                                   "-kernel inet_dist_use_interface {127,0,0,1} "
                                   "+sbwt none +sbwtdcpu none +sbwtdio none"}

    def tls_lines(self):
        certificate, key = self.authority.sign("broker")
        return (f"listeners.ssl.default = 127.0.0.1:{self.tls_port}\n"
                f"ssl_options.cacertfile = {self.authority.certificate}\n"
                f"ssl_options.certfile = {certificate}\nssl_options.keyfile = {key}\n"
                "ssl_options.verify = verify_peer\nssl_options.fail_if_no_peer_cert = true\n")

    def answers(self):
        if self.server.poll() is not None:
            raise AssertionError("RabbitMQ ended: " + self.output())
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 5) as connection:
            connection.sendall(b"AMQP\0\0\x09\x01")
            return connection.recv(1) == b"\x01"
        return False

    def control(self, *words):
        """What rabbitmqctl says."""
        done = subprocess.run([str(PROGRAMS / "rabbitmqctl"), "-q", "-n", self.environment["RABBITMQ_NODENAME"], *words],
                              env=self.environment, capture_output=True, check=False, timeout=60 * ingest.SCALE)
        if done.returncode != 0:
            raise AssertionError(f"rabbitmqctl {words}: {(done.stdout + done.stderr).decode(errors='replace')[-500:]}")
        return done.stdout.decode()

    def settle(self):
        """Also what it has answered for, but may have in memory only, survives a kill: the making of durable queues."""
        self.control("eval", "mnesia:sync_log().")

    def pid(self):
        """Of the server itself; its script is our child."""
        return int((self.folder / "pid").read_text())

    def kill(self):
        os.kill(self.pid(), signal.SIGKILL)
        wait_until(lambda: ingest.state_of(self.pid()) in (None, "Z"), 20, "RabbitMQ is gone")

    def stop(self):
        """TERM, then KILL."""
        with contextlib.suppress(OSError, ValueError):
            os.kill(self.pid(), signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.server.wait(20 * ingest.SCALE)
        if self.server.poll() is None:
            os.killpg(self.server.pid, signal.SIGKILL)
            self.server.wait()
        ingest.end_process(self.epmd)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.server = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.server:
            self.stop()
