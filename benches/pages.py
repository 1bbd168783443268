"""What the two makers of pages share."""

import argparse
import json
import pathlib


def section(page, name):
    """The section of a page between its two marks, with them; empty where there is none."""
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
    text = page.read_text() if page.exists() else ""
    before, found, rest = text.partition(begin)
    inside, ended, _ = rest.partition(end)
    return begin + inside + end if found and ended else ""


def put(page, name, inside):
    """Replaces a section of a page, or adds it at the end: what others have written there stays."""
    new = f"<!-- {name} -->\n{inside}<!-- end of {name} -->\n"
    old, text = section(page, name), page.read_text() if page.exists() else ""
    page.write_text(text.replace(old, new) if old else f"{text}\n{new}")


def read(doc, names):
    """What was measured of `names`, in their order, from the directory that the command line names; and where the page goes."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("results", type=pathlib.Path)
    parser.add_argument("docs", type=pathlib.Path)
    arguments = parser.parse_args()
    found = ((name, arguments.results / f"{name}.json") for name in names)
    return {name: json.loads(file.read_text()) for name, file in found if file.exists()}, arguments.docs
