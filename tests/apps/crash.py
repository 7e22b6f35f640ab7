# SPDX-License-Identifier: Apache-2.0
"""What the tests of crashes share: filesystems of their own, a storm of uploads, and what must be true afterwards."""

import collections
import contextlib
import ctypes
import fcntl
import hashlib
import os
import pathlib
import random
import subprocess
import tempfile
import threading

import ingest
from ingest import equal, wait_until

CLONE_NEWNS = 0x20000
FICLONE = 0x40049409
PR_SET_CHILD_SUBREAPER = 36
EXEC = "exec:sh -c 'if grep -aq EICAR-STANDARD; then exit 1; fi'"
LIBC = ctypes.CDLL(None, use_errno=True)
FILESYSTEMS = {
    # Nothing but the server's own syncs shall make anything durable, so ext4's journal does not commit by the clock.
    "ext4": {"make": ["mkfs.ext4", "-q", "-F"], "mount": "loop,commit=600", "megabytes": 256},
    # The least that mkfs.xfs makes is 300 MB. A copy has the UUID of its original, which may be mounted beside it.
    "xfs": {"make": ["mkfs.xfs", "-q", "-f"], "mount": "loop,nouuid", "megabytes": 400},
}


def run(*command):
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False,
                            env={**os.environ, "PATH": ingest.PATH})
    if result.returncode:
        raise AssertionError(f"{' '.join(map(str, command))}: {result.stderr.strip()[-300:]}")


def unmount(path):
    """What a process that just ended had open is let go a moment after its end."""
    def is_done():
        with contextlib.suppress(AssertionError):
            run("umount", path)
            return True
        return False

    try:
        wait_until(is_done, 30, f"{path} can be unmounted")
    except AssertionError:
        run("umount", "--lazy", path)
        raise


@contextlib.contextmanager
def mounted(options, what, place, *, kind=None):
    place.mkdir(exist_ok=True)
    run("mount", "-o", options, *(["-t", kind] if kind else []), what, place)
    try:
        yield place
    finally:
        unmount(place)


@contextlib.contextmanager
def workplace(megabytes=4096):
    """A folder in memory where filesystems can be made and mounted.

    This process gets a mount namespace of its own. When it ends, in whatever way, the namespace goes with it, with the
    mounts, the loop devices, and the images on them.
    """
    if not ingest.IS_ROOT:
        raise ingest.Skip("mounting a filesystem needs root")
    if not getattr(workplace, "is_private", False):
        if LIBC.unshare(CLONE_NEWNS) != 0:
            raise ingest.Skip(f"no mount namespace of our own: {os.strerror(ctypes.get_errno())}")
        run("mount", "--make-rprivate", "/")
        workplace.is_private = True
    place = pathlib.Path(tempfile.mkdtemp(prefix="ew-ingest-crash."))
    try:
        with mounted(f"size={megabytes}m,mode=755", "none", place, kind="tmpfs"):
            yield place
    finally:
        place.rmdir()


def make_image(kind, path, megabytes=None):
    with open(path, "wb") as file:
        file.truncate((megabytes or FILESYSTEMS[kind]["megabytes"]) << 20)
    run(*FILESYSTEMS[kind]["make"], path)


def mounted_image(kind, image, place):
    return mounted(FILESYSTEMS[kind]["mount"], image, place, kind=kind)


class Machine:
    """A filesystem whose power can be cut: `mount`, and `empty`, what it takes when nothing is there.

    Copying an image block by block while it is written gives a disk that never was: a block that was copied early can lack what
    a journal that was copied late has already forgotten. So the image lies on an xfs of the test's own, and the copy is a clone
    of the file (FICLONE), which waits for the write under way and keeps the next ones out. It is what the device held at one
    moment. Nothing is synced or stopped for it, neither the server nor the filesystem on the image (fsfreeze would sync it).
    """

    def __init__(self, kind):
        self.kind = kind
        self.cuts = 0

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            self.place = stack.enter_context(workplace())
            make_image("xfs", self.place / "outer", 3 << 10)
            self.outer = stack.enter_context(mounted_image("xfs", self.place / "outer", self.place / "images"))
            self.image = self.outer / "image"
            make_image(self.kind, self.image)
            self.mount = stack.enter_context(mounted_image(self.kind, self.image, self.place / "mount"))
            self.empty = nameless_bytes(self.mount)
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *what):
        return self.stack.__exit__(*what)

    def cut(self):
        """The image as it is at one moment."""
        self.cuts += 1
        copy = self.outer / f"cut-{self.cuts}"
        with open(self.image, "rb") as image, open(copy, "wb") as file:
            fcntl.ioctl(file.fileno(), FICLONE, image.fileno())
        return copy

    @contextlib.contextmanager
    def power_on(self, copy):
        """The mount as it is after the cut, its journal recovered."""
        with mounted_image(self.kind, copy, self.place / "copy") as mount:
            yield mount
        copy.unlink()

    def expect_no_space_lost(self, mount, names):
        """Exactly on ext4, whose inodes have their place from the start; on xfs they and the trees take it as they grow."""
        slack = 0 if self.kind == "ext4" else (1 << 20) + 1024 * names
        expect_no_space_lost(mount, self.empty, slack)


def nameless_bytes(mount):
    """Space that is taken and belongs to nothing that has a name: what the filesystem itself needs, and what was left."""
    folder = os.open(mount, os.O_RDONLY)
    LIBC.syncfs(folder)
    os.close(folder)
    status = os.statvfs(mount)
    named = 0
    for parent, folders, files in os.walk(mount):
        named += sum(os.lstat(os.path.join(parent, name)).st_blocks * 512 for name in folders + files)
    return (status.f_blocks - status.f_bfree) * status.f_frsize - named


def held_bytes(mount, pid):
    """Space of files without a name that a process has open there."""
    files = {}
    for link in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            target = os.readlink(link)
            if target.startswith(f"{mount}/") and target.endswith("(deleted)"):
                status = link.stat()
                files[status.st_ino] = status.st_blocks * 512
    return sum(files.values())


def expect_no_space_lost(mount, empty, slack=0, holder=None):
    """Each byte that is taken belongs to a name, but for what the empty filesystem took, and for what @holder has open."""
    def lost():
        return nameless_bytes(mount) - empty - (held_bytes(mount, holder) if holder else 0)

    try:
        wait_until(lambda: abs(lost()) <= slack, 20, "no space is lost")
    except AssertionError:
        raise AssertionError(f"{lost()} bytes belong to no name") from None


class Storm:
    """Clients that upload without a pause: small and large, some slow, some that leave, some that want the same name.

    `sent` has, for each name, the digests of the bodies that may stand behind it, noted before the first byte is sent.
    `acknowledged` has each 201, noted when it has been read.
    """

    WAYS = {"plain": 52, "slow": 12, "chunked": 12, "cut": 14, "left": 10}
    INFECTED = 0  # the share of uploads that have EICAR in front
    REFUSALS = ()  # statuses that are right, beside those that the upload itself asks for
    SIZES = (((0, 0), 5), ((1, 4096), 45), ((4097, 100_000), 38), ((100_001, 1_000_000), 12))

    def __init__(self, server, seed_value, label, clients=16):
        self.server, self.seed, self.label = server, seed_value, label
        self.over = threading.Event()
        self.news = threading.Condition()
        self.sent, self.acknowledged = {}, {}
        self.statuses, self.ways, self.wrong = collections.Counter(), collections.Counter(), []
        self.threads = [threading.Thread(target=self.client, args=(index,), daemon=True) for index in range(clients)]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        self.over.set()
        for thread in self.threads:
            thread.join(60 * ingest.SCALE)
            if thread.is_alive():
                raise AssertionError("a client does not end")
        if self.wrong:
            raise AssertionError("; ".join(self.wrong[:3]))

    def wait(self, more, seconds=60):
        """Until that many more uploads are acknowledged."""
        with self.news:
            goal = len(self.acknowledged) + more
            if not self.news.wait_for(lambda: self.wrong or len(self.acknowledged) >= goal, seconds * ingest.SCALE):
                raise AssertionError(f"{len(self.acknowledged)} of {goal} uploads are acknowledged; {self.statuses}")

    def acknowledged_now(self):
        with self.news:
            return dict(self.acknowledged)

    def client(self, index):
        chance = random.Random(f"{self.seed} {self.label} {index}")
        number = 0
        while not self.over.is_set():
            number += 1
            way, name, body = self.choose(chance, index, number)
            try:
                self.upload(chance, way, name, body)
            except OSError:
                self.over.wait(0.01)  # the server is gone, or has answered and closed
            except Exception as error:  # pylint: disable=broad-except
                self.note_wrong(f"client {index}: {error!r}")

    def choose(self, chance, index, number):
        way = chance.choices(list(self.WAYS), list(self.WAYS.values()))[0]
        least, most = chance.choices([size for size, _ in self.SIZES], [often for _, often in self.SIZES])[0]
        body = chance.randbytes(chance.randint(least, most))
        if chance.random() < self.INFECTED:
            return way, f"eicar-{self.label}-{index}-{number}", ingest.EICAR + body
        # One in eight wants a name that the other clients want too, at about the same time.
        own = chance.random() < 0.875
        return way, f"{self.label}-{index}-{number}" if own else f"{self.label}-all-{number // 2}", body

    def note_wrong(self, what):
        with self.news:
            self.wrong.append(what)
            self.news.notify_all()

    def upload(self, chance, way, name, body):
        cut = chance.randrange(len(body)) if way == "cut" and body else None
        digest = hashlib.sha256(body).hexdigest()
        if cut is None and not name.startswith("eicar-"):
            with self.news:
                self.sent.setdefault(name, set()).add(digest)
        with contextlib.closing(self.server.connect()) as connection:
            self.send(chance, connection, way, name, body[:cut], len(body))
            with self.news:
                self.ways[way] += 1
            if cut is not None or way == "left":
                if chance.random() < 0.5:
                    ingest.reset(connection)
                return
            answer = ingest.read_answer(connection)
        if answer:
            self.note(name, len(body), digest, answer)

    def send(self, chance, connection, way, name, body, length):
        if way == "chunked":
            connection.sendall(ingest.head(name) + (b"%x\r\n%s\r\n" % (length, body) if body else b"") + b"0\r\n\r\n")
            return
        connection.sendall(ingest.head(name, length))
        step = len(body) // chance.randint(2, 8) + 1 if way == "slow" else len(body) + 1
        for at in range(0, len(body), step):
            connection.sendall(body[at:at + step])
            if way == "slow":
                self.over.wait(0.02)

    def note(self, name, size, digest, answer):
        with self.news:
            self.statuses[answer.status] += 1
            if answer.status == 201:
                said = answer.json
                if name.startswith("eicar-"):
                    self.wrong.append(f"{name}: 201 for EICAR")
                if (said["size"], said["sha256"]) != (size, digest):
                    self.wrong.append(f"{name}: 201 for other bytes than were sent")
                if name in self.acknowledged:
                    self.wrong.append(f"{name}: two uploads got 201")
                self.acknowledged[name] = digest
            elif not self.is_expected(name, answer):
                self.wrong.append(f"{name}: {answer.status} {answer.body[:200]!r}")
            self.news.notify_all()
        if answer.status >= 500:
            self.over.wait(0.1)  # it may take a while, and the machine has something else to do

    def is_expected(self, name, answer):
        return answer.status == (422 if name.startswith("eicar-") else 409) or answer.status in self.REFUSALS


def digest_of(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def faults(bucket, sent, acknowledged):
    """What must not be after a crash: acknowledged uploads that are lost or torn, and others that are there by half."""
    there = {path.name: digest_of(path) for path in sorted(bucket.iterdir())}
    found = [f"lost: {name}" for name in sorted(set(acknowledged) - set(there))]
    for name, digest in there.items():
        if name in acknowledged:
            if digest != acknowledged[name]:
                found.append(f"torn: {name}")
        elif digest not in sent.get(name, ()):
            found.append(f"half there: {name}")
    return found


def adopt_orphans():
    """What loses its parent below this process becomes its child."""
    LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def strangers(known):
    """What descends from this process, has lost its parent, and is not among the known, since this process adopts it; zombies
    are reaped on the way."""
    left = []
    for pid in ingest.children() - known:
        with contextlib.suppress(OSError):
            if os.waitpid(pid, os.WNOHANG)[0] == pid:
                continue
            left.append(pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode())
    return left


class Crashes:
    """One server on one filesystem, killed and started again.

    A clamd whose client dies just after it has passed a file may keep it open for good (1.4.6: what is received together with
    the end of the connection is forgotten and not closed), and nobody but clamd can give that space back. So what it has open
    is counted off, exactly.
    """

    KEEP_BYTES = 64 << 20

    def __init__(self, mount, clamd, chance, seed):
        self.mount, self.clamd, self.chance, self.seed = mount, clamd, chance, seed
        self.scanners = ["none", EXEC, *([f"clamd:{clamd.socket}"] if clamd else [])]
        self.sent, self.acknowledged = {}, {}
        self.known = ingest.children()
        self.counts = collections.Counter()
        self.server = ingest.Server("none", "--scan-limit", "4M", bucket=mount / "bucket")

    def __enter__(self):
        self.empty = nameless_bytes(self.mount)
        self.server.__enter__()
        try:
            self.expect_nothing_left()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *what):
        self.server.__exit__(*what)

    def round(self, number):
        server = self.server
        with self.storm(number) as storm:
            self.meanwhile(storm)
            self.counts["staged when killed"] += self.staged_now()
            self.end(storm)
            storm.stop()
        self.counts.update(storm.ways)
        self.counts["acknowledged"] += len(storm.acknowledged)
        self.sent.update(storm.sent)
        self.acknowledged.update(storm.acknowledged)

        wait_until(lambda: not strangers(self.known), 20, f"the old server's processes have ended: {strangers(self.known)}")
        server.scanner = self.scanners[(number + 1) % len(self.scanners)]
        server.start()
        self.expect_nothing_left()
        equal(faults(server.bucket, self.sent, self.acknowledged), [], f"after kill {number}")
        if sum(path.stat().st_size for path in server.bucket.iterdir()) > self.KEEP_BYTES:
            self.clean()

    def storm(self, number):
        return Storm(self.server, self.seed, number)

    def meanwhile(self, storm):
        storm.wait(self.chance.randint(1, 40 if self.server.scanner == "none" else 12))

    def end(self, _):
        self.server.process.kill()
        self.server.process.wait()

    def staged_now(self):
        """Looked at while the server runs, so that the test knows that there was something to lose."""
        with contextlib.suppress(OSError):
            return self.server.staged()
        return 0

    def expect_nothing_left(self):
        self.server.wait_idle()
        wait_until(lambda: len(self.in_state()) == 2, 20, f"the lock and one lease are left: {self.in_state()}")
        expect_no_space_lost(self.mount, self.empty, holder=self.clamd and self.clamd.process.pid)

    def in_state(self):
        """The files in the state folder that have a name."""
        return sorted(name for _, _, names in os.walk(self.server.state) for name in names)

    def clean(self):
        for path in self.server.bucket.iterdir():
            path.unlink()
        self.sent, self.acknowledged = {}, {}
