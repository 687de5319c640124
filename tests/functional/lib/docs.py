"""Pages of docs/ whose commands tests run: an indented block is one to run, a section has a number."""

import os
import re

from . import metadata, proc

DOCS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../../docs")
SCRIPTS = os.path.join(DOCS, "../scripts")


class Page:
    def __init__(self, name):
        with open(os.path.join(DOCS, name), encoding="utf-8") as file:
            self.text = file.read()
        self.shown = set()

    def blocks(self):
        """{(number of the section, n): commands}: indented lines, n counts the blocks of a section."""
        found, section, last, count = {}, None, "", 0
        for line in self.text.splitlines():
            heading = re.match(r"#+ (\d+(\.\d+)*)", line)
            if heading:
                section, count = heading.group(1), 0
            if line.startswith("    "):
                if not last.startswith("    "):
                    count += 1
                found.setdefault((section, count), []).append(line.strip())
            last = line
        return {key: "\n".join(lines) for key, lines in found.items()}

    def shows(self, *keys):
        """Marks which blocks a test runs."""
        self.shown.update(keys)
        return lambda function: function

    def run(self, rig, section, n, **names):
        """Run a block in a directory of the test, with these variables set; what it prints."""
        tools = "".join(
            f'{name}() {{ command {metadata.tool(name, "1")} "$@"; }}\n' for name in ("thin_check", "thin_repair", "thin_dump")
        )
        tools += "".join(f'{name}() {{ {SCRIPTS}/{name} "$@"; }}\n' for name in ("thin-top", "thin-module"))
        text = self.blocks()[section, n].replace("/mnt/thin", os.path.join(rig.directory, "mnt"))
        return proc.run(
            "bash", "-ec", f"{tools}cd {rig.directory}\n{text}", env={key: str(value) for key, value in names.items()}
        ).out
