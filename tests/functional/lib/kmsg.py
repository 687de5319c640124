"""The kernel's log since a mark, and the lines in it that mean a bug."""

import errno
import os
import re

ALARM = re.compile(
    r"\bBUG\b|\bWARNING: |\bOops\b|KASAN|UBSAN|kernel BUG|general protection|Call Trace"
    r"|possible circular|possible recursive|inconsistent lock state|suspicious RCU|blocked for more than"
    r"|INFO: task|soft lockup|sleeping function|scheduling while atomic|unreferenced object|held lock freed"
    r"|refcount_t:|list_(?:add|del) corruption|Bad page state|stack-protector"
)


class Log:
    def __init__(self):
        self.fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        os.lseek(self.fd, 0, os.SEEK_END)
        self.lines = []

    def read(self):
        """All lines since the mark."""
        while True:
            try:
                record = os.read(self.fd, 8192)
            except BlockingIOError:
                return self.lines
            except OSError as error:
                if error.errno == errno.EPIPE:  # lines were overwritten: go on with the oldest left
                    continue
                raise
            head, _, text = record.decode(errors="replace").partition(";")
            if not head.startswith(" "):
                self.lines.append(text.splitlines()[0] if text else "")

    def alarms(self):
        return [line for line in self.read() if ALARM.search(line)]

    def has(self, expression):
        return any(re.search(expression, line) for line in self.read())

    def close(self):
        os.close(self.fd)
