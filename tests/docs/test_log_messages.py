"""docs/messages.md has every line that the module writes to the kernel log."""

import glob
import os
import re

SOURCE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../..")
CALL = re.compile(r'\bDM(?:ERR|WARN|INFO|CRIT|EMERG)(?:_LIMIT)?\(((?:\s*"(?:[^"\\]|\\.)*")+)')
SPECIFIER = re.compile(r"%(?:pg|#?l{0,2}[a-z])")


def formats():
    for path in sorted(glob.glob(f"{SOURCE}/*.c") + glob.glob(f"{SOURCE}/persistent-data/*.c")):
        with open(path, encoding="utf-8") as file:
            for found in CALL.finditer(file.read()):
                yield "".join(re.findall(r'"((?:[^"\\]|\\.)*)"', found.group(1)))


def explained():
    with open(f"{SOURCE}/docs/messages.md", encoding="utf-8") as file:
        return re.findall(r"^\| `([^`]*)` \|", file.read(), re.MULTILINE)


def expression(text):
    return ".+".join(re.escape(piece) for piece in SPECIFIER.split(text))


def test_every_line_is_explained():
    assert len(list(formats())) > 30
    missing = [text for text in formats() if not any(re.fullmatch(expression(text), line) for line in explained())]
    assert not missing


def test_every_explanation_has_a_line():
    stale = [line for line in explained() if not any(re.fullmatch(expression(text), line) for text in formats())]
    assert not stale


def test_every_line_names_its_device():
    nameless = [text for text in formats() if not re.match(r"%s: |%pg: |(?:Metadata device|Data device) \(?%s", text)]
    assert not nameless
