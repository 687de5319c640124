"""A real tree of files on a thin volume: copied, snapshotted while mounted, changed, proven by SHA-256.

What a file should hold is never read from the thin: it is taken from the source tree, or from
the bytes a change wrote. The demonstration and the tests share this.
"""

import hashlib
import os
import random
import subprocess
import tempfile

from . import proc

SOURCE = "/usr"
# Where plenty of real files of all sizes are found, in this order.
PLACES = ("share", "lib/python3", "lib", "include", "bin", "sbin", "libexec", ".")


def choose(min_bytes, min_files, source=SOURCE):
    """Relative paths of regular files: at least so many and at least so much."""
    chosen, seen, total = [], set(), 0
    for place in PLACES:
        for directory, names, files in os.walk(os.path.join(source, place)):
            names.sort()
            if os.path.relpath(directory, source).startswith("lib/modules"):
                names.clear()
                continue
            for name in sorted(files):
                path = os.path.join(directory, name)
                relative = os.path.relpath(path, source)
                if relative in seen or os.path.islink(path) or not os.path.isfile(path):
                    continue
                size = os.path.getsize(path)
                # A few giants would make the number of files meaningless, and the copy slow.
                if size > max(min_bytes // 20, 1 << 20):
                    continue
                if len(chosen) >= min_files and total >= min_bytes:
                    return chosen
                # Enough files already: take the larger ones only.
                if len(chosen) >= min_files and size < min_bytes // 4000:
                    continue
                # Enough for the bytes, not for the files: small ones only.
                if total >= min_bytes and size > 16384:
                    continue
                seen.add(relative)
                chosen.append(relative)
                total += size
    assert len(chosen) >= min_files and total >= min_bytes, (
        f"{source} has only {len(chosen)} files and {total} bytes to copy"
    )
    return chosen


def copy(files, target, source=SOURCE):
    reader = subprocess.Popen(
        ["tar", "-C", source, "--null", "--no-recursion", "-T", "-", "-cf", "-"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )
    writer = subprocess.Popen(["tar", "-C", target, "-xf", "-"], stdin=reader.stdout)
    reader.stdout.close()
    reader.stdin.write(b"".join(os.fsencode(name) + b"\0" for name in files))
    reader.stdin.close()
    assert writer.wait() == 0 and reader.wait() == 0, "the copy failed"


def digests(root, files=None, processes=2):
    """{path: SHA-256} of the named files below root, or of all there are."""
    if files is None:
        names = proc.run("find", root, "-type", "f", "-printf", "%P\\0").out.split("\0")[:-1]
    else:
        names = list(files)
    readers = []
    for n in range(processes):
        # Each has a file of its own to write to: in one pipe their lines would run together.
        said, todo = tempfile.TemporaryFile(), tempfile.TemporaryFile()
        todo.write(b"".join(os.fsencode(name) + b"\0" for name in names[n::processes]))
        todo.seek(0)
        command = ["xargs", "-0", "-r", "sha256sum", "-z", "--"]
        readers.append((subprocess.Popen(command, stdin=todo, stdout=said, cwd=root), said))
    found = {}
    for reader, said in readers:
        status = reader.wait()
        assert status == 0, f"sha256sum below {root} ended with status {status}"
        said.seek(0)
        for line in said.read().split(b"\0"):
            if line:
                found[os.fsdecode(line[66:])] = line[:64].decode()
        said.close()
    return found


def forget_caches():
    """So that what is read next comes from the device."""
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as file:
        file.write("3")


class Tree:
    """What the files below a mount point should be."""

    def __init__(self, expected):
        self.expected = dict(expected)

    def copy(self):
        return Tree(self.expected)

    def change(self, root, changes, deletions, seed=1):
        """Change so many files (grown, cut, rewritten in place) and delete so many others."""
        chance = random.Random(seed)
        # Deleted are neighbours, which lie together on the disk: so whole blocks become free.
        names = sorted(self.expected)
        start = chance.randrange(len(names) - deletions)
        deleted = names[start : start + deletions]
        for name in chance.sample(names[:start] + names[start + deletions :], changes):
            path = os.path.join(root, name)
            with open(path, "rb") as file:
                data = bytearray(file.read())
            old = bytes(data)
            kind = chance.randrange(3)
            at = chance.randrange(len(data) + 1)
            new = chance.randbytes(chance.choice([16, 700, 5000]))
            if kind == 0:
                data += new
            elif kind == 1:
                data = data[:at]
            else:
                data[at : at + len(new)] = new
            if bytes(data) == old:
                data += b"changed"
            # In place, as programs do that edit files: the old blocks are written again.
            with open(path, "r+b") as file:
                file.write(data)
                file.truncate()
            self.expected[name] = hashlib.sha256(data).hexdigest()
        for name in deleted:
            os.unlink(os.path.join(root, name))
            del self.expected[name]

    def prove(self, root):
        """Assert that the tree is exactly what it should be; number of files."""
        forget_caches()
        found = digests(root)
        missing = sorted(set(self.expected) - set(found))
        extra = sorted(set(found) - set(self.expected))
        wrong = sorted(n for n in found if n in self.expected and found[n] != self.expected[n])
        assert not (missing or extra or wrong), (
            f"{root}: {len(missing)} files missing {missing[:3]}, {len(extra)} that should not be there {extra[:3]}, "
            f"{len(wrong)} with other content {wrong[:3]}"
        )
        return len(found)


def make_filesystem(kind, device):
    if kind == "ext4":
        # lazy_itable_init would go on writing in the background: numbers of blocks would drift.
        proc.run("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", device)
    else:
        proc.run("mkfs.xfs", "-q", "-f", device)


def mount(kind, device, where, readonly=False):
    os.makedirs(where, exist_ok=True)
    # A snapshot of an xfs has the uuid of its origin, which may be mounted.
    options = {"ext4": "noatime", "xfs": "noatime,nouuid"}[kind] + (",ro" if readonly else "")
    proc.run("mount", "-t", kind, "-o", options, device, where)


def unmount(where):
    proc.run("umount", where)


def check_filesystem(kind, device):
    if kind == "ext4":
        proc.run("e2fsck", "-fn", device)
    else:
        proc.run("xfs_repair", "-n", device)
