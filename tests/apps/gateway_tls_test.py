#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The gateway and its broker in TLS: with a RabbitMQ that wants to see certificates, and with servers that are not the one
that was meant.
"""

import contextlib
import socket
import ssl
import threading

import certificates
import gateway
import ingest
import rabbitmq
from gateway import Client, Gateway, broker
from ingest import check, equal, wait_until

# Who does not get through is asked about nothing else.
ROUTES = {"render": {"routing_key": "nobody"}}
AUTHORITY = certificates.Authority()


def secure(port=None):
    return f"amqps://guest:guest@127.0.0.1:{port or broker().tls_port}/%2F"


def identity():
    """Flags with a certificate that the broker accepts."""
    certificate, key = AUTHORITY.sign(gateway.fresh("gateway"))
    return ["--amqp-certificate", certificate, "--amqp-key", key]


def trusted():
    return ["--amqp-ca", AUTHORITY.certificate, *identity()]


def expect_no_connection(words, *arguments, amqp=None):
    """It says why, tries again, is not ready, and serves on."""
    with Gateway(ROUTES, *arguments, amqp=amqp or secure(), ready=False) as server:
        wait_until(lambda: server.log().count(words) >= 2, 60, lambda: f"twice {words!r} in {server.log()[-1000:]}")
        check(not server.is_ready(), "not ready")
        server.post(b"{}").problem(503, "broker-unavailable")
        equal(server.request("GET", "/healthz").status, 200)
        equal(server.metric("gateway_connections_total"), 0)


def test_gateway_tls_carries_operations_and_a_cancel_with_its_receipt():
    with gateway.work_queue() as queue, gateway.workers("c", queue, 2) as (log, _), Gateway(
            {"render": {"routing_key": queue, "concurrency": 2, "presumed_hold": "10m"}}, *trusted(), amqp=secure()) as server:
        equal(server.post(b'{"ms": 1}').status, 200)
        large = b'{"ms": 1, "filling": "' + b"x" * 200000 + b'"}'
        equal(server.post(large).status, 200)
        client = Client(server, b'{"ms": 60000}')
        wait_until(lambda: log.running()[0] == 1, 60, "it runs")
        client.closes()
        server.await_rest()
        equal(server.outcomes("cancels"), {"stopped": 1}, "cancels")
        equal(log.running()[0], 0, "jobs that run")


def test_gateway_tls_is_connected_again_when_the_broker_closes():
    with Gateway(ROUTES, *trusted(), amqp=secure()) as server:
        broker().control("close_all_connections", "for a test")
        wait_until(lambda: server.metric("gateway_connections_total") == 2, 60, "connected again")
        wait_until(server.is_ready, 60, "ready")


def test_gateway_tls_trusts_no_other_authority():
    with certificates.Authority("Somebody else") as other:
        for trust in ["--amqp-ca", other.certificate], []:
            expect_no_connection("/CN=Endwell test authority: self-signed certificate in certificate chain", *trust, *identity())


def test_gateway_tls_wants_the_name_that_it_calls():
    expect_no_connection("/CN=broker is not for elsewhere.example", *trusted(), "--amqp-server-name", "elsewhere.example")
    with Gateway(ROUTES, *trusted(), "--amqp-server-name", "localhost", amqp=secure()):
        pass


def test_gateway_tls_without_a_certificate_is_refused_by_a_broker_that_wants_one():
    expect_no_connection("the peer refuses: tlsv13 alert certificate required", "--amqp-ca", AUTHORITY.certificate)


def test_gateway_tls_with_a_port_that_speaks_none():
    expect_no_connection("the peer does not speak TLS", *trusted(), amqp=secure(broker().port))


def test_gateway_without_tls_at_a_port_that_speaks_it():
    expect_no_connection("the broker speaks TLS", amqp=f"amqp://127.0.0.1:{broker().tls_port}")


@contextlib.contextmanager
def tls_server(certificate, key):
    """Takes connections in TLS, and says nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with contextlib.suppress(OSError), context.wrap_socket(connection, server_side=True) as stream:
                        stream.recv(1)

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_gateway_tls_with_a_certificate_that_has_expired():
    with tls_server(*AUTHORITY.sign("late", expired=True)) as port:
        expect_no_connection("/CN=late, issued by /CN=Endwell test authority: certificate has expired", *trusted(),
                             amqp=secure(port))


if __name__ == "__main__":
    with AUTHORITY:
        gateway.BROKER = rabbitmq.Broker(AUTHORITY)
        with broker():
            ingest.main()
