#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What a client can ask of an operation beside waiting for it: its state, its cancel, its result later, and not to run it twice.

One gateway and one worker, which has room for all, for each test; a real RabbitMQ.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile

import browser
import gateway
import ingest
import rabbitmq
from gateway import Gateway
from ingest import Skip, check, equal, wait_until

ASYNC = {"Prefer": "respond-async"}


def job(milliseconds, **wishes):
    return json.dumps({"ms": milliseconds, **wishes}).encode()


LONG = job(600000)
FINISHES = job(600000, on_cancel="finish", finish_ms=300)


@contextlib.contextmanager
def running(*arguments, tenants=None, **keys):
    with gateway.work_queue() as queue, gateway.Log() as log, gateway.Worker("c", queue, log, 10) as worker, \
            Gateway({"render": {"routing_key": queue, "concurrency": 2, "waiting_room": 5, "timeout": "10m",
                                "cancel_deadline": "60s", **keys}}, *arguments, tenants=tenants) as server:
        server.jobs, server.worker = log, worker
        gateway.await_consumers(queue, 1)
        yield server


def begin(server, body=LONG, **headers):
    """One that runs without its client; its path."""
    answer = server.post(body, headers={**ASYNC, **headers})
    equal(answer.status, 202)
    equal(answer.headers["Location"], "/ops/" + answer.headers["X-Operation-Id"])
    return answer.headers["Location"]


def state(server, path):
    return server.request("GET", path).json["state"]


def await_begun(server, count):
    """So many jobs were granted and run: a grant that is confirmed may still be on its way to the worker."""
    wait_until(lambda: server.metric('gateway_grants_total{route="render"}') == count, 60, f"{count} are granted")
    wait_until(lambda: sum(line.startswith("begin ") for line in server.jobs.lines()) == count, 60, f"{count} have begun")


def receipt(server, path):
    answer = server.request("DELETE", path)
    equal(answer.status, 200)
    return answer.json["outcome"], answer.json["answer"]


def test_gateway_delete_stops_the_job_and_tells_who_waits_for_it():
    key = {"Idempotency-Key": "one"}
    with running() as server:
        waiting = ingest.in_background(lambda: server.post(LONG, headers=key))
        await_begun(server, 1)
        known = server.post(LONG, headers=key)
        known.problem(409, "in-flight")
        operation = "/ops/" + known.headers["X-Operation-Id"]
        equal(state(server, operation), "running")
        equal(receipt(server, operation), ("acknowledged", "stopped"))
        waiting.result().problem(409, "cancelled")
        equal(receipt(server, operation), ("acknowledged", "stopped"))
        equal(state(server, operation), "ended")
        equal(server.outcomes("cancels"), {"stopped": 1})
        server.await_rest()


def test_gateway_delete_of_one_that_waits_starts_nothing():
    key = {"Idempotency-Key": "one"}
    with running() as server:
        others = [begin(server) for _ in range(2)]
        waiting = ingest.in_background(lambda: server.post(LONG, headers=key))
        wait_until(lambda: server.metric('gateway_waiting{route="render"}') == 1, 60, "one waits")
        operation = "/ops/" + server.post(LONG, headers=key).headers["X-Operation-Id"]
        equal(state(server, operation), "waiting")
        equal(receipt(server, operation), ("acknowledged", "unsent"))
        waiting.result().problem(409, "cancelled")
        for other in others:
            equal(receipt(server, other)[0], "acknowledged")
        equal(server.metric('gateway_waiting{route="render"}'), 0)
        check(server.metric('gateway_grants_total{route="render"}') <= 2, "grants")
        server.await_rest()


def test_gateway_delete_comes_too_late_for_what_has_ended():
    with running() as server:
        operation = begin(server, job(10))
        wait_until(lambda: state(server, operation) == "ended", 60, "it has ended")
        equal(receipt(server, operation), ("too-late", "replied"))


def test_gateway_delete_of_a_job_that_does_not_stop_waits_for_its_result():
    with running() as server:
        operation = begin(server, FINISHES)
        await_begun(server, 1)
        equal(receipt(server, operation), ("too-late", "too-late"))
        equal(list(server.request("GET", operation + "/result").json), ["steps"])


def test_gateway_operation_without_a_client_is_asked_for_its_result():
    with running() as server:
        server.worker.stops()
        operation = begin(server, job(200))
        server.request("GET", operation + "/result").problem(404, "not-found")
        server.worker.goes_on()
        wait_until(lambda: state(server, operation) == "ended", 60, "it has ended")
        known = server.request("GET", operation).json
        equal((known["outcome"], known["result"], known["route"]), ("replied", operation + "/result", "render"))
        result = server.request("GET", known["result"])
        equal((result.status, result.json, result.headers["X-Operation-Id"]), (200, {"steps": 20}, known["id"]))


def test_gateway_nobody_knows_an_id_that_was_made_up():
    with running() as server:
        for path in ("/ops/" + 32 * "0", "/ops/" + 31 * "0", "/ops/", "/ops/" + 32 * "0" + "/result"):
            server.request("GET", path).problem(404, "not-found")
            server.request("DELETE", path).problem(404, "not-found")


def test_gateway_operation_without_a_client_is_cut_at_the_end_of_the_grace():
    with running("--grace", "1") as server:
        begin(server)
        await_begun(server, 1)
        server.process.send_signal(signal.SIGTERM)
        equal(server.process.wait(60 * ingest.SCALE), 3)
        check("outcome=stopped" in server.log(), server.log()[-500:])


def test_gateway_key_replays_its_answer():
    key = {"Idempotency-Key": "one"}
    with running() as server:
        first, second = (server.post(job(10), headers=key) for _ in range(2))
        equal((first.status, second.status, first.body), (200, 200, second.body))
        equal(second.headers["X-Operation-Id"], first.headers["X-Operation-Id"])
        equal((first.headers.get("Idempotency-Replayed"), second.headers.get("Idempotency-Replayed")), (None, "true"))
        equal(server.outcomes(), {"replied": 1})
        server.post(job(20), headers=key).problem(422, "key-reused")
        server.post(job(10), headers={"Idempotency-Key": 256 * "k"}).problem(400, "bad-key")


def test_gateway_key_is_not_run_twice_and_free_when_it_was_stopped():
    key = {"Idempotency-Key": "one"}
    with running() as server:
        operation = begin(server, **key)
        server.post(LONG, headers=key).problem(409, "in-flight")
        await_begun(server, 1)
        equal(receipt(server, operation), ("acknowledged", "stopped"))
        again = begin(server, **key)
        check(again != operation, "a new operation")
        await_begun(server, 2)
        equal(receipt(server, again), ("acknowledged", "stopped"))


def test_gateway_key_keeps_the_result_that_came_when_its_client_had_left():
    with running() as server:
        client = server.connect()
        client.sendall(b"POST /ops/render HTTP/1.1\r\nHost: 127.0.0.1\r\nIdempotency-Key: one\r\n"
                       b"Content-Length: %d\r\n\r\n%s" % (len(FINISHES), FINISHES))
        await_begun(server, 1)
        client.close()
        server.await_rest()
        equal(server.outcomes(), {"too-late": 1})
        answer = server.post(FINISHES, headers={"Idempotency-Key": "one"})
        equal((list(answer.json), answer.headers.get("Idempotency-Replayed")), (["steps"], "true"))


def test_gateway_content_type_that_no_message_can_carry_is_refused():
    with running() as server:
        equal(server.post(job(10), headers={"Content-Type": "a/" + 253 * "b"}).status, 200)
        server.post(job(10), headers={"Content-Type": "a/" + 254 * "b"}).problem(400, "bad-content-type")
        equal(server.outcomes(), {"replied": 1})


def test_gateway_two_deletes_at_once_hear_the_same():
    with running() as server:
        operation = begin(server)
        await_begun(server, 1)
        server.worker.stops()
        deletes = [ingest.in_background(lambda: receipt(server, operation)) for _ in range(2)]
        wait_until(lambda: state(server, operation) == "cancelling", 60, "it is being cancelled")
        equal((server.permits()["cancelling"], server.permits()["free"]), (1, 1))
        server.worker.goes_on()
        equal([delete.result() for delete in deletes], 2 * [("acknowledged", "stopped")])
        equal((server.outcomes(), server.outcomes("cancels")), ({"stopped": 1}, {"stopped": 1}))
        server.await_rest()


def becomes_presumed(server, body, key):
    """An operation with a key, whose worker says nothing in time; its path."""
    operation = begin(server, body, **key)
    await_begun(server, 1)
    server.worker.stops()
    equal(receipt(server, operation), ("presumed", "silent"))
    server.post(body, headers=key).problem(502, "outcome-unknown")
    server.post(body + b" ", headers=key).problem(422, "key-reused")
    equal((server.permits()["presumed"], server.metric('gateway_grants_total{route="render"}')), (1, 1))
    server.worker.goes_on()
    server.await_rest()
    return operation


def test_gateway_key_of_a_presumed_operation_is_free_when_a_late_word_says_that_it_was_stopped():
    key = {"Idempotency-Key": "one"}
    with running(cancel_deadline="300ms", presumed_hold="10m") as server:
        operation = becomes_presumed(server, LONG, key)
        again = begin(server, **key)
        check(again != operation, "a new operation")
        await_begun(server, 2)
        equal(server.metric('gateway_presumed_proved_total{route="render"}'), 1)


def test_gateway_key_of_a_presumed_operation_replays_its_late_result():
    key = {"Idempotency-Key": "one"}
    with running(cancel_deadline="300ms", presumed_hold="10m") as server:
        operation = becomes_presumed(server, FINISHES, key)
        answer = server.post(FINISHES, headers=key)
        equal((list(answer.json), answer.headers.get("Idempotency-Replayed"), "/ops/" + answer.headers["X-Operation-Id"]),
              (["steps"], "true", operation))
        equal(server.metric('gateway_grants_total{route="render"}'), 1)


TENANTS = {"tenant_header": "X-Tenant", "concurrency": 3, "tenant_concurrency": 3}


def of(tenant, **headers):
    return {"X-Tenant": tenant, **headers}


def share(server, tenant):
    """The states of a tenant's permits, which add up."""
    states = server.permits()["tenants"][tenant]
    equal(sum(states[state] for state in ("free", "held", "cancelling", "presumed")), states["capacity"], f"sum of {tenant}'s")
    return states


def waits(server, tenant, count):
    """One more request of a tenant, which then has so many in the waiting room."""
    request = ingest.in_background(lambda: server.post(job(10), headers=of(tenant)))
    wait_until(lambda: tenant in server.permits()["tenants"] and share(server, tenant)["waiting"] == count, 60,
               f"{count} of {tenant} wait")
    return request


def test_gateway_permits_go_round_among_tenants():
    with running(**{**TENANTS, "waiting_room": 8}) as server:
        first, _, _ = (begin(server, **of(tenant)) for tenant in "cca")
        crowd = [waits(server, "a", count) for count in (1, 2, 3)]
        single = waits(server, "b", 1)
        equal(server.permits()["waiting"], 4)
        receipt(server, first)
        order = [request.result().headers["X-Operation-Id"] for request in (crowd[0], single, crowd[1], crowd[2])]
        equal([line[6:] for line in server.jobs.lines() if line[6:] in order and line.startswith("begin ")], order)


def test_gateway_crowd_of_one_tenant_is_sent_away_and_others_are_not():
    with running(**{**TENANTS, "tenant_concurrency": 2, "tenant_waiting_room": 1}) as server:
        mine = [begin(server, **of("a")) for _ in range(2)]
        last = waits(server, "a", 1)
        answer = server.post(job(10), headers=of("a"))
        detail = answer.problem(429, "tenant-busy")
        check("Of the tenant a 2 of 2 permits are taken, and its waiting room is full" in detail, detail)
        check(int(answer.headers["Retry-After"]) >= 1, answer.headers)
        equal([server.post(job(10), headers=of("b")).status for _ in range(3)], [200, 200, 200])
        # Who is answered is counted as its tenant's a moment longer.
        wait_until(lambda: "b" not in server.permits()["tenants"], 60, "b has gone")
        equal((share(server, "a")["held"], share(server, "a")["waiting"]), (2, 1))
        equal(server.metric('gateway_tenant_shed_total{route="render",tenant="others"}'), 1)
        receipt(server, mine[0])
        equal(last.result().status, 200)


def test_gateway_tenant_learns_that_it_is_the_route_that_is_full():
    with running(**{**TENANTS, "waiting_room": 0}) as server:
        for tenant in "abc":
            begin(server, **of(tenant))
        check("Of the route render 3 of 3 permits" in server.post(job(10), headers=of("d")).problem(503, "busy"), "detail")


@contextlib.contextmanager
def becoming_presumed(hold):
    """An operation of a tenant with one permit, of which its worker knows nothing."""
    with running(tenants={"a": {"concurrency": 1, "waiting_room": 0}},
                 **{**TENANTS, "cancel_deadline": "300ms", "presumed_hold": hold}) as server:
        operation = begin(server, job(600000, on_cancel="lose"), **of("a"))
        await_begun(server, 1)
        equal(receipt(server, operation), ("presumed", "silent"))
        yield server


def test_gateway_permit_of_a_tenant_is_presumed_with_its_operation():
    with becoming_presumed("10m") as server:
        equal((share(server, "a")["presumed"], server.permits()["presumed"]), (1, 1))
        equal(server.metric('gateway_tenant_permits{route="render",tenant="a",state="presumed"}'), 1)
        server.post(job(10), headers=of("a")).problem(429, "tenant-busy")
        equal(server.post(job(10), headers=of("b")).status, 200)
    with becoming_presumed("100ms") as server:
        wait_until(lambda: share(server, "a")["free"] == 1, 60, "its hold time has passed")
        equal(server.post(job(10), headers=of("a")).status, 200)


def test_gateway_tenants_come_and_go_and_their_keys_are_their_own():
    with running(**TENANTS) as server:
        ids = {server.post(job(0), headers=of(f"t{number % 2}", **{"Idempotency-Key": "one"})).headers["X-Operation-Id"]
               for number in range(4)}
        equal(len(ids), 2)
        equal(server.post(job(0)).status, 200)
        wait_until(lambda: server.permits()["tenants"] == {}, 60, "all have gone")
        for name in ("", "a b", "a,b", 65 * "x"):
            server.post(job(0), headers=of(name)).problem(400, "bad-tenant")
        equal(server.metric('gateway_tenant_permits{route="render",tenant="others",state="held"}'), 0)


def test_gateway_tells_the_worker_whose_operation_it_is():
    with gateway.work_queue() as queue, Gateway({"render": {"routing_key": queue, **TENANTS}}) as server:
        for count, headers in enumerate((of("a"), {}), 1):
            begin(server, **headers)
            wait_until(lambda: gateway.messages(queue) == count, 60, f"{count} in the queue")
        connection = gateway.connect()
        told = [connection.channel().basic_get(queue, auto_ack=True)[1].headers["x-ew-tenant"] for _ in range(count)]
        connection.close()
        equal(told, ["a", "none"])
        server.process.kill()


# ---- the page of metrics ----

def test_gateway_metrics_are_those_of_the_manual():
    manual = (ingest.ROOT / "docs" / "operating-gateway.md").read_text()
    table = manual.split("\n## Metrics\n")[1].split("\n## ")[0]
    names = [name for line in table.splitlines() if line.startswith("| `")
             for name in re.findall(r"`([a-z_]+)[`{]", line.split(" | ")[0])]
    check(len(names) > 20, f"the table has names: {names}")
    with running() as server:
        page = server.request("GET", "/metrics").body.decode()
        equal(sorted(re.findall(r"^# TYPE gateway_(\w+) ", page, re.MULTILINE)), sorted(names))


# ---- pages of other origins ----

GUEST = "https://app.example.org"
EXPOSED = "Location, Retry-After, Allow, X-Operation-Id, Idempotency-Replayed, Preference-Applied"


def told(answer, status, **more):
    """What a browser reads before it shows an answer to a page, is for that page, and for no other."""
    found = {name: value for name, value in answer.headers.items() if name.startswith("Access-Control") or name == "Vary"}
    equal((answer.status, found), (status, {"Vary": "Origin", **more}))


def test_gateway_pages_of_an_allowed_origin_are_told_what_they_may():
    common = {"Access-Control-Allow-Origin": GUEST, "Access-Control-Expose-Headers": EXPOSED}
    preflight = {**common, "Access-Control-Allow-Headers": "*", "Access-Control-Max-Age": "600"}

    with running("--origin", GUEST) as server:
        def ask(path, method="POST", origin=GUEST):
            return server.request("OPTIONS", path, headers={
                "Origin": origin, "Access-Control-Request-Method": method,
                "Access-Control-Request-Headers": "content-type,idempotency-key,prefer,traceparent"})

        def of(origin, method, path, body=None, **headers):
            return server.request(method, path, body, headers={"Origin": origin, **headers})

        methods = {"Access-Control-Allow-Methods": "POST, GET, HEAD, DELETE"}
        told(ask("/ops/render"), 204, **preflight, **methods)
        told(ask("/ops/1", "DELETE"), 204, **preflight, **methods)
        told(ask("/permits", "GET"), 204, **{**preflight, "Access-Control-Allow-Methods": "GET, HEAD"})
        told(ask("/nowhere"), 404, **common)

        # A result, which is passed on, and one that comes as events; a state, a cancel, a refusal.
        told(of(GUEST, "POST", "/ops/render", job(1)), 200, **common)
        told(of(GUEST, "POST", "/ops/render", job(1), Accept="text/event-stream"), 200, **common)
        answer = of(GUEST, "POST", "/ops/render", LONG, **ASYNC)
        told(answer, 202, **common)
        told(of(GUEST, "GET", answer.headers["Location"]), 200, **common)
        told(of(GUEST, "DELETE", answer.headers["Location"]), 200, **common)
        told(of(GUEST, "POST", "/ops/render", job(1), **{"Idempotency-Key": ""}), 400, **common)
        # What HTTP alone refuses.
        told(of(GUEST, "POST", "/ops/render", b"no number\r\n", **{"Transfer-Encoding": "chunked"}), 400, **common)
        told(of(GUEST, "POST", "/ops/render", b"x" * (2 << 20)), 413, **common)
        told(of(GUEST, "GET", "/healthz", **{"X-Long": "x" * 20000}), 431, **common)

        # An OPTIONS that is no preflight, and those who are no page, or none of these.
        told(of(GUEST, "OPTIONS", "/ops/render"), 405, **common)
        told(ask("/ops/render", origin="https://evil.example"), 403)
        told(of("https://evil.example", "GET", "/healthz"), 403)
        told(ask("/ops/render", origin=f"http://127.0.0.1:{server.port}"), 405)
        told(server.request("GET", "/healthz"), 200)

    with running() as server:
        equal(server.request("GET", "/healthz").headers["Vary"], None)
        equal(server.request("GET", "/healthz", headers={"Origin": GUEST}).status, 403)


# A page's day: one operation to be asked for later, its events by EventSource, the key again, events of one that is fetched, and
# a cancel.
PAGE = """
(async base => {
    const read = ["X-Operation-Id", "Preference-Applied", "Idempotency-Replayed"];
    const of = answer => [answer.status, ...read.map(name => answer.headers.get(name))];
    const post = (job, headers) => fetch(base + "/ops/render", {method: "POST", body: JSON.stringify(job), headers: {
        "Content-Type": "application/x-job", "traceparent": "00-" + "a".repeat(32) + "-" + "b".repeat(16) + "-01", ...headers}});
    const begun = await post({ms: 1}, {"Prefer": "respond-async", "Idempotency-Key": "1", "Accept": "text/event-stream"});
    const path = begun.headers.get("Location");
    const source = new EventSource(base + path + "/events");
    const result = await new Promise((resolve, reject) => {
        source.addEventListener("result", event => resolve(JSON.parse(event.data).status));
        source.addEventListener("error", () => reject(new Error("no events")));
    });
    source.close();
    const again = of(await post({ms: 1}, {"Idempotency-Key": "1"}));
    const events = await (await post({ms: 1}, {"Accept": "text/event-stream"})).text();
    const long = await post({ms: 600000}, {"Prefer": "respond-async"});
    const cancel = await fetch(base + long.headers.get("Location"), {method: "DELETE"});
    return {begun: of(begun), path, result, again, events: events.includes("event: result"), outcome: [cancel.status]};
})("%s").catch(error => error.name)
"""


def test_gateway_page_of_an_allowed_origin_in_a_browser_starts_follows_and_cancels():
    with browser.origin() as guest, browser.origin() as stranger, browser.Browser() as chromium, \
            running("--origin", guest) as server:
        address = f"http://127.0.0.1:{server.port}"
        seen = chromium.open(guest + "/").runs(PAGE % address)
        check(isinstance(seen, dict), f"the page was kept from something: {seen}")
        one = seen["path"].removeprefix("/ops/")
        equal(seen, {"begun": [202, one, "respond-async", None], "path": "/ops/" + one, "result": 200,
                     "again": [200, one, None, "true"], "events": True, "outcome": [200]})
        ran = len(server.jobs.lines())
        equal(chromium.open(stranger + "/").runs(PAGE % address), "TypeError")
        equal(len(server.jobs.lines()), ran)


# ---- the first thing that one tries ----

@contextlib.contextmanager
def run_gateway():
    """tools/run-gateway, which serves; a function gives what it has said so far."""
    if ingest.BUILD != ingest.ROOT / "build" or not shutil.which("curl"):
        raise Skip("it runs what is in build/, and wants curl")
    gateway.broker()  # or there is none to be had
    (port,) = rabbitmq.free_ports(1)
    with tempfile.NamedTemporaryFile(prefix="ew-run-gateway.") as output:
        with subprocess.Popen([str(ingest.ROOT / "tools" / "run-gateway")], stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                              env={**os.environ, "LISTEN": f"127.0.0.1:{port}", "CONFIG": ""}) as process:
            def said():
                with open(output.name, encoding="utf-8") as text:
                    return text.read()
            try:
                wait_until(lambda: "  try  " in said() or process.poll() is not None, 120, lambda: f"it serves: {said()}")
                yield process, said
            finally:
                ingest.end_process(process, 60)


def of_shell(command):
    return subprocess.run(["sh", "-c", command], capture_output=True, check=True, timeout=60 * ingest.SCALE).stdout.decode()


def test_gateway_of_make_run_gateway_shows_a_cancel_with_its_receipt():
    """The lines to try are taken as they are printed."""
    with run_gateway() as (process, said):
        command = re.search(r"with the worker's receipt:\n(.*?)\n\n", said(), re.DOTALL).group(1)
        shown = json.loads(of_shell(command))
        equal(shown["outcome"], "acknowledged")
        check(shown["answer"] in ("refused", "not-started", "stopped"), f"an answer of the worker's: {shown}")
        command = re.search(r"press Ctrl-C.*\n *(.*)\n", said()).group(1)
        metrics = "curl -s " + re.search(r"http://[^/]*", command).group() + "/metrics"
        wait_until(lambda: said().count("event=operation") == 1, 60, "the log has the first")
        with subprocess.Popen(["sh", "-c", "exec " + command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as client:
            wait_until(lambda: 'state="held"} 1' in of_shell(metrics), 60, "it has a permit")
            client.send_signal(signal.SIGINT)
        wait_until(lambda: said().count("event=operation") == 2, 60, lambda: f"it has ended: {said()}")
        check(re.search(r" outcome=(refused|not-started|stopped) ", said().splitlines()[-1]), said().splitlines()[-1])
        process.send_signal(signal.SIGTERM)
        equal(process.wait(60 * ingest.SCALE), 0)


if __name__ == "__main__":
    with gateway.broker():
        ingest.main()
